// What a turned view sees beyond the frame: the frame's own rim, the softer the further away. Drawn
// before warp.frag, only where the frame does not reach (engine/timewarp.py, `uncovered`).
uniform sampler2D frame;  // with mipmaps
uniform mat3 frame_from_view;
uniform float brightness;
in vec2 frame_uv;
out vec4 colour;

const float SOFTER_PER_PX = 0.3;  // how fast the blur's width grows with the distance
const float SOFTEST = 3.8;  // as a mipmap level: sky and ground must not run into each other
const float DARKER_PER_SHARE = 0.5;  // of the frame's side; no more than one side counts

void main() {
    vec3 seen = frame_from_view * vec3(frame_uv, 1.0);
    vec2 uv = seen.xy / max(seen.z, 1e-3);
    vec2 inside = clamp(uv, 0.0, 1.0);
    float away_px = length((uv - inside) * vec2(textureSize(frame, 0)));
    float level = min(log2(1.0 + SOFTER_PER_PX * away_px), SOFTEST);
    vec3 rgb = textureLod(frame, inside, level).rgb;
    float away = min(length(uv - inside), 1.0);
    colour = vec4(rgb * brightness / (1.0 + DARKER_PER_SHARE * away), 1.0);
}
