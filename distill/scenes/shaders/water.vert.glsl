in vec2 in_position;
out vec3 place;

void main() {
    place = vec3(in_position.x * 850.0, 0.0, in_position.y * 850.0) + vec3(eye.x, 0.0, eye.z);
    gl_Position = clip_from_world * vec4(place, 1.0);
}
