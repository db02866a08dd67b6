// The upscaled picture seen from another camera of the same place (engine/timewarp.py). Beyond its rim
// it goes on as the frame's own rim, the softer the further away.
uniform sampler2D picture;  // as large as it is shown
uniform sampler2D frame;    // with mipmaps
uniform mat3 frame_from_view;
uniform float brightness;
in vec2 frame_uv;
out vec4 colour;

const float SOFTER_PER_PX = 0.3;  // how fast the blur's width grows with the distance
const float SOFTEST = 3.8;  // as a mipmap level: sky and ground must not run into each other
const float DARKER_PER_SHARE = 0.5;

vec3 beyond_the_rim(vec2 inside, vec2 beyond) {
    float away_px = length(beyond * vec2(textureSize(frame, 0)));
    float level = min(log2(1.0 + SOFTER_PER_PX * away_px), SOFTEST);
    return textureLod(frame, inside, level).rgb / (1.0 + DARKER_PER_SHARE * length(beyond));
}

void main() {
    vec3 seen = frame_from_view * vec3(frame_uv, 1.0);
    vec2 uv = seen.xy / max(seen.z, 1e-3);
    vec2 inside = clamp(uv, 0.0, 1.0);
    vec3 rgb = textureLod(picture, vec2(inside.x, 1.0 - inside.y), 0.0).rgb;  // its rows go up
    if (uv != inside) rgb = beyond_the_rim(inside, uv - inside);
    colour = vec4(rgb * brightness, 1.0);
}
