#version 330
uniform sampler2D fine;
uniform int factor;
out vec4 result;

// The exact mean of factor x factor sub-samples; a bilinear fetch would miss some of them.
void main() {
    ivec2 corner = ivec2(gl_FragCoord.xy) * factor;
    vec4 total = vec4(0.0);
    for (int i = 0; i < factor; i++)
        for (int j = 0; j < factor; j++)
            total += texelFetch(fine, corner + ivec2(i, j), 0);
    result = total / float(factor * factor);
}
