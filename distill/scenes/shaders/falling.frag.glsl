in vec2 spot;
in float strength;
out vec4 result;

void main() {
    bool rain = air.z > air.w;
    float shape = rain ? (1.0 - abs(spot.x)) * (1.0 - spot.y * spot.y)
                       : smoothstep(1.0, 0.45, length(spot));
    float opacity = strength * shape * (rain ? 0.42 : 0.92);
    if (opacity < 0.02) discard;
    vec3 sky = mix(zenith.rgb, horizon.rgb, 0.7);
    vec3 colour = sky * horizon.w * (rain ? 1.15 : 1.3) + sun_colour.rgb * 0.3;
    if (night.x > 0.5) colour += LAMP * 0.06;
    result = vec4(toned(colour), opacity);
}
