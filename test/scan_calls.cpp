// SPDX-License-Identifier: Apache-2.0
// Calls the compiled kernels on made numbers and prints what they give, one value a line.
//
// Built for two processors and run on both, the lines can be compared (models/test_aarch64.py).

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

typedef uint16_t bf16;
typedef std::vector<float> Floats;
typedef std::vector<bf16> Halves;

extern "C" {
void diffmf_layer_norm_float32_float32(const void *, const float *, const float *, float, void *, long, int, int);
void diffmf_layer_norm_bfloat16_bfloat16(const void *, const float *, const float *, float, void *, long, int, int);
int diffmf_ss2d_forward_float32(const float *, const float *, const float *, const float *, const float *, const float *,
                                float *, long, long, long, int, int, int, int, int);
int diffmf_ss2d_forward_bfloat16(const bf16 *, const bf16 *, const float *, const float *, const float *, const float *,
                                 bf16 *, long, long, long, int, int, int, int, int);
int diffmf_ss2d_backward(const float *, const float *, const float *, const float *, const float *, const float *,
                         const float *, float *, float *, float *, float *, float *, float *, long, long, long, int,
                         int, int, int, int);
int diffmf_ssd_forward_float32(const float *, const float *, const float *, const float *, const float *, float *,
                               const long *, long, long, int, int, int, int, int);
int diffmf_ssd_forward_bfloat16(const bf16 *, const float *, const float *, const bf16 *, const bf16 *, bf16 *,
                                const long *, long, long, int, int, int, int, int);
int diffmf_ssd_backward(const float *, const float *, const float *, const float *, const float *, const float *,
                        float *, float *, float *, float *, float *, const long *, long, long, int, int, int, int, int);
int diffmf_scan_forward(const float *const *, const long *, const long *, int, int);
int diffmf_scan_backward(const float *const *, const long *, const long *, int, int);
}

static uint32_t state = 1;

// Numbers from low to high, the same ones everywhere.
static Floats made(size_t count, float low = -1, float high = 1) {
    Floats values(count);
    for (float &value : values) {
        state = state * 1664525u + 1013904223u;
        value = low + (high - low) * (float)(state >> 8) / 16777216.0f;
    }
    return values;
}

static Halves half(const Floats &values) {
    Halves halves(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        halves[i] = (bf16)(bits >> 16);
    }
    return halves;
}

static void print(const char *name, const Floats &values) {
    for (float value : values) printf("%s %.9g\n", name, value);
}

static void print(const char *name, const Halves &halves) {
    for (bf16 one : halves) {
        const uint32_t bits = (uint32_t)one << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        printf("%s %.9g\n", name, value);
    }
}

constexpr int THREADS = 2, VECTORS = 1;

static void layer_norm() {
    constexpr long rows = 7, channels = 33;
    const Floats x = made(rows * channels), weight = made(channels), bias = made(channels);
    Floats y(x.size());
    diffmf_layer_norm_float32_float32(x.data(), weight.data(), bias.data(), 1e-5f, y.data(), rows, channels, THREADS);
    print("norm", y);
    const Halves low = half(x);
    Halves low_y(x.size());
    diffmf_layer_norm_bfloat16_bfloat16(low.data(), weight.data(), bias.data(), 1e-5f, low_y.data(), rows, channels, THREADS);
    print("norm_bfloat16", low_y);
}

static void ss2d() {
    constexpr long height = 13, width = 11;
    constexpr int channels = 18, states = 3, rank = 2, blocks = 2;
    const Floats u = made(height * width * channels), proj = made(height * width * 4 * (rank + 2 * states)),
                 dt_weight = made(4 * channels * rank), dt_bias = made(4 * channels),
                 A = made(4 * channels * states, -1, -0.1f), skip = made(4 * channels), dy = made(u.size());
    Floats y(u.size()), du(u.size()), dproj(blocks * proj.size()), dw(dt_weight.size()), db(dt_bias.size()), dA(A.size()),
        dskip(skip.size());
    diffmf_ss2d_forward_float32(u.data(), proj.data(), dt_weight.data(), dt_bias.data(), A.data(), skip.data(), y.data(), 1,
                                height, width, channels, states, rank, VECTORS, THREADS);
    print("ss2d", y);
    const Halves low_u = half(u), low_proj = half(proj);
    Halves low_y(u.size());
    diffmf_ss2d_forward_bfloat16(low_u.data(), low_proj.data(), dt_weight.data(), dt_bias.data(), A.data(), skip.data(),
                                 low_y.data(), 1, height, width, channels, states, rank, VECTORS, THREADS);
    print("ss2d_bfloat16", low_y);
    diffmf_ss2d_backward(u.data(), proj.data(), dt_weight.data(), dt_bias.data(), A.data(), skip.data(), dy.data(),
                         du.data(), dproj.data(), dw.data(), db.data(), dA.data(), dskip.data(), 1, height, width, channels,
                         states, rank, VECTORS, THREADS);
    for (const Floats *gradient : {&du, &dproj, &dw, &db, &dA, &dskip}) print("ss2d_backward", *gradient);
}

static void ssd() {
    constexpr long length = 67;
    constexpr int heads = 4, width = 5, states = 6, directions = 2;
    const Floats x = made(length * heads * width), delta = made(length * heads, 0, 0.1f), A = made(heads, -1, -0.1f),
                 B = made(length * states), C = made(length * states), dy = made(x.size());
    const long strides[] = {(long)x.size(), heads * width, (long)delta.size(), heads, (long)B.size(), states,
                            (long)C.size(), states, (long)dy.size(), heads * width};
    Floats y(x.size()), dx(x.size()), ddelta(delta.size()), dA(heads), dB(heads * B.size()), dC(heads * C.size());
    diffmf_ssd_forward_float32(x.data(), delta.data(), A.data(), B.data(), C.data(), y.data(), strides, 1, length, heads,
                               width, states, directions, THREADS);
    print("ssd", y);
    const Halves low_x = half(x), low_B = half(B), low_C = half(C);
    Halves low_y(x.size());
    diffmf_ssd_forward_bfloat16(low_x.data(), delta.data(), A.data(), low_B.data(), low_C.data(), low_y.data(), strides, 1,
                                length, heads, width, states, directions, THREADS);
    print("ssd_bfloat16", low_y);
    diffmf_ssd_backward(x.data(), delta.data(), A.data(), B.data(), C.data(), dy.data(), dx.data(), ddelta.data(), dA.data(),
                        dB.data(), dC.data(), strides, 1, length, heads, width, states, directions, THREADS);
    for (const Floats *gradient : {&dx, &ddelta, &dA, &dB, &dC}) print("ssd_backward", *gradient);
}

static void scan() {
    constexpr long groups = 2, group_channels = 17, channels = groups * group_channels, states = 3, length = 65, blocks = 2;
    const Floats u = made(channels * length), delta = made(u.size(), 0, 1), B = made(groups * states * length),
                 C = made(B.size()), A = made(channels * states, -1, -0.1f), D = made(channels), bias = made(channels),
                 dy = made(u.size());
    Floats y(u.size()), du(u.size()), ddelta(u.size()), dB(blocks * B.size()), dC(dB.size()), dA(A.size()), dD(channels),
        dbias(channels);
    const long all = channels * length, both = groups * states * length;
    const long strides[] = {all, length, 1, all, length, 1, both, length, 1, both, length, 1, all, length, 1,
                            all, length, 1, all, length, 1};
    const long sizes[] = {1, length, channels, groups, states, 1};
    const float *forward[] = {u.data(), delta.data(), B.data(), C.data(), A.data(), D.data(), bias.data(), y.data()};
    diffmf_scan_forward(forward, strides, sizes, VECTORS, THREADS);
    print("scan", y);
    const float *backward[] = {u.data(), delta.data(), B.data(), C.data(), A.data(), D.data(), bias.data(), dy.data(),
                               du.data(), ddelta.data(), dB.data(), dC.data(), dA.data(), dD.data(), dbias.data()};
    diffmf_scan_backward(backward, strides, sizes, VECTORS, THREADS);
    for (const Floats *gradient : {&du, &ddelta, &dB, &dC, &dA, &dD, &dbias}) print("scan_backward", *gradient);
}

int main() {
    layer_norm();
    ss2d();
    ssd();
    scan();
}
