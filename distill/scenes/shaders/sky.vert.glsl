in vec2 in_position;
out vec3 ray;

void main() {
    ray = ray_middle.xyz + in_position.x * ray_right.xyz + in_position.y * ray_down.xyz;
    gl_Position = vec4(in_position, 1.0, 1.0);
}
