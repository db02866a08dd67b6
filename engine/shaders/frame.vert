// One triangle that covers the viewport.
out vec2 frame_uv;  // (0, 0) is the frame's top left corner

void main() {
    vec2 corner = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2);
    gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
    frame_uv = vec2(corner.x, 1.0 - corner.y);
}
