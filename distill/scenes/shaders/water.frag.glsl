in vec3 place;
out vec4 result;
uniform sampler2D height_map;

float wave(vec2 p) {
    if (eye.w > 0.0) p += vec2(0.55, 0.35) * eye.w;
    return noise_at(p / 34.0).r + 0.45 * noise_at(p / 13.0 + 0.3).r;
}

void main() {
    vec3 v = place - eye.xyz;
    float distance_m = length(v);
    vec3 d = v / distance_m;
    vec2 p = place.xz * vec2(1.0, 1.35);
    float middle = wave(p);
    float strength = 0.55 * exp(-distance_m * 0.016);
    vec3 n = normalize(vec3((middle - wave(p + vec2(0.5, 0.0))) * strength, 1.0,
                            (middle - wave(p + vec2(0.0, 0.5))) * strength));
    vec3 r = reflect(d, n);
    r.y = abs(r.y);
    float mirror = 0.03 + 0.97 * pow(1.0 - max(dot(-d, n), 0.0), 5.0);

    vec2 uv = place.xz / land.x + 0.5;
    bool inside = all(lessThan(abs(uv - 0.5), vec2(0.5)));
    float depth = inside ? max(-texture(height_map, uv).r, 0.0) : 9.0;
    vec3 body = mix(shallow.rgb, deep.rgb, 1.0 - exp(-depth * 0.32));
    body *= horizon.w * (0.30 + 0.5 * sun.y) + 0.22 * sun_colour.rgb * sun.y + 0.15;
    if (night.y > 0.0) body += lamplight(place, 0.0) * 0.10;
    vec3 colour = mix(body, sky_with_clouds(r), mirror * 0.92);
    colour += sun_colour.rgb * pow(max(dot(r, sun.xyz), 0.0), 220.0) * 1.2;
    float foam = smoothstep(0.34, 0.06, depth + 0.30 * (middle - 0.72));
    colour = mix(colour, vec3(0.95) * (0.35 * sun_colour.rgb + 0.5 * horizon.rgb), foam * 0.55);
    result = vec4(toned(hazed(colour, place)), clamp(0.42 + depth * 0.42 + mirror, 0.0, 1.0));
}
