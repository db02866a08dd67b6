in vec2 in_position;
out vec2 spot;
out float strength;

const float BOX = 13.0;  // metres; the pattern repeats, and fades before it does

float random(int n) {
    uint x = uint(n) * 747796405u + 2891336453u;
    x = ((x >> ((x >> 28u) + 4u)) ^ x) * 277803737u;
    return float((x >> 22u) ^ x) / 4294967295.0;
}

// Each drop and flake has a place in the world at every moment, whatever the eye does.
void main() {
    int id = gl_InstanceID;
    bool rain = air.z > air.w;
    vec3 start = vec3(random(3 * id), random(3 * id + 1), random(3 * id + 2)) * BOX;
    vec3 velocity = rain ? vec3(0.9, -8.5, 0.5) : vec3(0.45, -1.15, 0.25);
    vec3 p = start + velocity * eye.w;
    if (!rain) p.xz += 0.22 * sin(eye.w * 1.3 + 40.0 * start.zx);
    vec3 offset = mod(p - eye.xyz + 0.5 * BOX, BOX) - 0.5 * BOX;
    float away = length(offset);
    float least = 0.6 * length(ray_right.xyz) * away / 112.0;  // about half a pixel
    vec3 along, across;
    if (rain) {
        along = 0.16 * velocity / 8.5;
        across = normalize(cross(velocity, offset)) * max(0.004, least);
    } else {
        float size = max(0.022 + 0.02 * random(7 * id), 1.4 * least);
        along = normalize(ray_down.xyz) * size;
        across = normalize(ray_right.xyz) * size;
    }
    strength = smoothstep(0.5 * BOX, 0.35 * BOX, away) * smoothstep(0.4, 1.2, away);
    strength *= float(id) < 1600.0 * max(air.z, air.w) ? 1.0 : 0.0;
    spot = in_position;
    vec3 place = eye.xyz + offset + in_position.x * across + in_position.y * along;
    gl_Position = clip_from_world * vec4(place, 1.0);
}
