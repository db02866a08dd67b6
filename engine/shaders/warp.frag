// The upscaled picture seen from another camera of the same place (engine/timewarp.py).
uniform sampler2D picture;  // as large as it is shown
uniform mat3 frame_from_view;
uniform float brightness;
in vec2 frame_uv;
out vec4 colour;

void main() {
    vec3 seen = frame_from_view * vec3(frame_uv, 1.0);
    vec2 uv = seen.xy / max(seen.z, 1e-3);
    if (uv != clamp(uv, 0.0, 1.0)) discard;  // rim.frag was there
    vec3 rgb = textureLod(picture, vec2(uv.x, 1.0 - uv.y), 0.0).rgb;  // its rows go up
    colour = vec4(rgb * brightness, 1.0);
}
