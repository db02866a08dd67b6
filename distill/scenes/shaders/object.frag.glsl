in vec3 place;
in vec3 normal;
in vec3 colour;
in float height;
flat in float softness;
in float shine;
out vec4 result;

// What the eye meets at arm's length dissolves: sub-samples of the output pixel drop out one by one.
void fade_near(vec3 place) {
    float steps = land.z * land.z;
    float kept = floor((distance(place, eye.xyz) - 0.7) / 1.3 * (steps + 1.0));
    ivec2 sub = ivec2(gl_FragCoord.xy) % int(land.z);
    float rank = sub.x == sub.y ? float(sub.x) : 2.0 + float(sub.y);
    if (steps < 2.0) rank = 0.0;
    if (rank >= kept) discard;
}

void main() {
    fade_near(place);
    vec3 n = normalize(normal);
    float snow = land.y * smoothstep(0.25, 0.62, n.y + 0.25 * (noise_at(place.xz * 0.11 + place.y * 0.07).r - 0.5));
    if (softness < 0.0) snow = 0.0;
    vec3 albedo = mix(colour, vec3(0.86, 0.90, 0.97), snow);
    albedo *= 0.90 + 0.20 * noise_at(place.xz * 0.09 + place.y * 0.13).r;
    float openness = mix(0.74, 1.0, smoothstep(-0.1, 0.5, height)) * (0.82 + 0.18 * n.y);
    if (air.x > 0.0) albedo *= 1.0 - 0.25 * air.x;
    vec3 lit = lighted(albedo, n, sunlit(place, n, max(softness, 0.0)), openness);
    if (night.y > 0.0) lit += albedo * lamplight(place, height);
    if (shine > 3.5) lit += colour * 1.6 * night.x;
    else if (shine > 2.5) lit = colour * (2.6 + 0.5 * sin(eye.w * 11.0 + place.y * 9.0 + place.x));
    else if (shine > 1.5) lit = mix(lit, LAMP * 2.4, night.x);
    result = vec4(toned(hazed(lit, place)), 1.0);
}
