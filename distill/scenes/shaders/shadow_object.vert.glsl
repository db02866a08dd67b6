in vec3 in_position;
in vec4 i_place;
in vec4 i_look;
in vec4 i_shape;

void main() {
    float c = cos(i_look.x), s = sin(i_look.x);
    mat3 turn = mat3(c, 0.0, -s, 0.0, 1.0, 0.0, s, 0.0, c);
    vec3 place = i_place.xyz + turn * (in_position * vec3(1.0, i_shape.x, 1.0)) * i_place.w;
    gl_Position = shadow_from_world * vec4(place, 1.0);
}
