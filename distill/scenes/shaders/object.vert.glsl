in vec3 in_position;
in vec3 in_normal;
in vec4 in_colour;
in vec4 i_place;      // xyz, scale
in vec4 i_look;       // yaw, tint
in vec3 i_shape;      // vertical stretch, draw distance, softness
out vec3 place;
out vec3 normal;
out vec3 colour;
out float height;
flat out float softness;

void main() {
    float c = cos(i_look.x), s = sin(i_look.x);
    mat3 turn = mat3(c, 0.0, -s, 0.0, 1.0, 0.0, s, 0.0, c);
    // Small things grow out of the ground as they come into range, instead of popping up.
    float range = smoothstep(1.0, 0.72, distance(i_place.xyz, eye.xyz) / i_shape.y);
    place = i_place.xyz + turn * (in_position * vec3(1.0, i_shape.x, 1.0)) * i_place.w * range;
    normal = turn * (in_normal * vec3(1.0, 1.0 / i_shape.x, 1.0));
    colour = mix(in_colour.rgb, in_colour.rgb * i_look.yzw, in_colour.a);
    softness = i_shape.z < 0.0 ? -1.0 : i_shape.z * in_colour.a;
    height = in_position.y;
    gl_Position = clip_from_world * vec4(place, 1.0);
}
