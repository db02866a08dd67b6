in vec3 in_position;
in vec3 in_normal;
in vec4 in_colour;   // w: metres from the nearest trail
out vec3 place;
out vec3 normal;
out vec4 colour;

void main() {
    place = in_position;
    normal = in_normal;
    colour = in_colour;
    gl_Position = clip_from_world * vec4(in_position, 1.0);
}
