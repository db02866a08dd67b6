in vec3 ray;
out vec4 result;

// Silhouettes too far away to move as one walks: the sky carries them, two ranges deep.
vec3 far_mountains(vec3 d, vec3 colour) {
    float turn = atan(d.z, d.x) / 6.2831853;
    float tangent = d.y / length(d.xz);
    for (int i = 0; i < 2; i++) {
        vec2 p = vec2(turn * (1.0 + float(i)) + 0.31 * float(i), 0.13 + 0.4 * float(i) + cloud.z);
        float profile = 0.70 * noise_at(p).r + 0.30 * noise_at(vec2(p.x * 3.0, p.y + 0.2)).r;
        float top = ridge.w * (i == 0 ? 0.25 + 0.75 * profile : 0.10 + 0.52 * profile);
        float inside = smoothstep(0.0, 0.0015, top - tangent);
        float snow_edge = top - ridge.w * (0.16 + 0.22 * noise_at(vec2(turn * 9.0, tangent * 3.0)).r);
        float snow = ridge_top.w * float(i == 0) * smoothstep(-0.01, 0.012, tangent - snow_edge);
        vec3 rock = mix(ridge.rgb, ridge_top.rgb, snow);
        float veil = (i == 0 ? 0.58 : 0.40) + 0.35 * (1.0 - clamp(tangent / max(ridge.w, 1e-3), 0.0, 1.0));
        colour = mix(colour, mix(rock, sky_gradient(vec3(d.x, 0.0, d.z)), clamp(veil, 0.0, 1.0)), inside);
    }
    return colour;
}

// Points on a cube around the eye: one in some cells, as wide as a pixel or so.
vec3 stars(vec3 d) {
    vec3 a = abs(d);
    vec2 p = a.y > max(a.x, a.z) ? d.xz / a.y : a.x > a.z ? d.yz / a.x + 3.0 : d.xy / a.z + 7.0;
    p *= 40.0;
    vec2 cell = floor(p);
    vec3 h = fract(sin(vec3(dot(cell, vec2(12.9, 78.2)), dot(cell, vec2(39.3, 11.1)),
                            dot(cell, vec2(73.1, 52.2)))) * 43758.5);
    float spot = smoothstep(0.19, 0.05, distance(fract(p), 0.25 + 0.5 * h.xy));
    return vec3(0.85, 0.92, 1.0) * spot * smoothstep(0.80, 1.0, h.z) * smoothstep(0.0, 0.25, d.y);
}

void main() {
    vec3 d = normalize(ray);
    vec3 colour = sky_with_clouds(d);
    float disc = night.z > 0.5 ? 9.0 : 1.6;  // the moon is no brighter than its light but for the eye
    if (night.w > 0.0) disc *= 1.0 - night.w;
    colour += sun_colour.rgb * smoothstep(0.99925, 0.99965, dot(d, sun.xyz)) * disc;
    if (night.z > 0.0 && d.y > 0.0) colour += stars(d) * night.z;
    if (ridge.w > 0.0 && d.y < ridge.w) {
        vec3 range = far_mountains(d, colour);
        colour = night.w > 0.0 ? mix(range, colour, night.w) : range;
    }
    colour = mix(colour, mix(ground_haze.rgb, sky_gradient(vec3(d.x, 0.0, d.z)), 0.6), smoothstep(0.0, 0.03, -d.y));
    result = vec4(toned(colour), 1.0);
}
