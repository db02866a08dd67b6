// One rectangle, in window pixels from the top left.
uniform vec4 rectangle;  // left, top, width, height
uniform vec2 window_size;
out vec2 sprite_uv;

void main() {
    vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
    vec2 at = (rectangle.xy + corner * rectangle.zw) / window_size;
    gl_Position = vec4(at.x * 2.0 - 1.0, 1.0 - at.y * 2.0, 0.0, 1.0);
    sprite_uv = corner;
}
