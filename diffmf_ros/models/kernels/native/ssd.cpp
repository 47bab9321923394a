// SPDX-License-Identifier: Apache-2.0
// Mamba-2's scan for the CPU: the plain recurrence S_t = a_t S_(t-1) + B_t (delta_t x_t)', y_t = C_t S_t.
//
// A task owns one head of one sequence. Its state, n x p, stays in the first-level cache, and several
// tokens pass over it at once, so that it is loaded and stored once for all of them.

#include "vectors.h"

namespace {

constexpr int TOKENS = 4;  // that pass over the state together
constexpr int TILE = 16;  // tokens whose decays are computed together

// Token and batch strides count values; what lies below a token is contiguous.
template <typename T>
struct Sequence {
    const T *data;
    long batch_stride, token_stride;
    ALWAYS const T *at(long b, long t) const { return data + b * batch_stride + t * token_stride; }
};

template <typename T>
struct Inputs {
    Sequence<T> x;           // heads x p a token
    Sequence<float> delta;   // heads a token, positive
    const float *A;          // heads, negative
    Sequence<T> B, C;        // n a token
    long batch, length;
    int heads, width, states, directions;
};

INLINE void widen(float *to, const float *from, int count) { memcpy(to, from, count * sizeof(float)); }
INLINE void widen(float *to, const bf16 *from, int count) {
    for (int i = 0; i < count; i += LANES) store(to + i, load(from + i, std::min(LANES, count - i)), std::min(LANES, count - i));
}

// N tokens from t on in steps of `step`: update the state and return y in `out`, N x PV.
template <int PV, int N>
INLINE void advance(vec *state, int states, const float *decay, const vec *dx, const float *B, const float *C, vec *out) {
    vec y[N * PV] = {};
    for (int n = 0; n < states; ++n) {
        vec h[PV];
        EACH(v, PV) h[v] = state[n * PV + v];
        EACH(t, N) {
            EACH(v, PV) h[v] = h[v] * splat(decay[t]) + dx[t * PV + v] * splat(B[t * states + n]);
            EACH(v, PV) y[t * PV + v] += h[v] * splat(C[t * states + n]);
        }
        EACH(v, PV) state[n * PV + v] = h[v];
    }
    EACH(i, N * PV) out[i] = y[i];
}

template <int PV, typename T>
INLINE void head_task(const Inputs<T> &in, T *y, long b, int head) {
    static thread_local Kept kept;
    const long L = in.length;
    const int n = in.states, tile_of_states = (TILE * n + LANES - 1) / LANES;
    vec *memory = kept.take((long)n * PV + 2 * TILE * PV + 2 * tile_of_states + (in.directions == 2 ? L * PV : 0));
    vec *state = memory, *dx = state + n * PV, *out = dx + TILE * PV;
    float *B = (float *)(out + TILE * PV), *C = (float *)(out + TILE * PV + tile_of_states);
    vec *there = out + TILE * PV + 2 * tile_of_states;  // what the first direction gave, L x PV
    for (int direction = 0; direction < in.directions; ++direction) {
        const bool back = direction == 1, last = direction + 1 == in.directions;
        memset((void *)state, 0, (long)n * PV * sizeof(vec));
        for (long start = 0; start < L; start += TILE) {
            const int count = (int)std::min<long>(TILE, L - start);
            vec steps = {};
            for (int i = 0; i < count; ++i) {
                const long t = back ? L - 1 - (start + i) : start + i;
                const float delta = in.delta.at(b, t)[head];
                const T *x = in.x.at(b, t) + (long)head * in.width;
                steps[i] = delta * in.A[head];
                EACH(v, PV) dx[i * PV + v] = load(x + v * LANES, std::max(0, std::min(LANES, in.width - v * LANES))) * splat(delta);
                widen(B + i * n, in.B.at(b, t), n);
                widen(C + i * n, in.C.at(b, t), n);
            }
            const vec decays = exp2_negative(steps * splat(LOG2_E));
            float decay[TILE];
            store(decay, decays);
            int i = 0;
            for (; i + TOKENS <= count; i += TOKENS)
                advance<PV, TOKENS>(state, n, decay + i, dx + i * PV, B + i * n, C + i * n, out + i * PV);
            for (; i < count; ++i) advance<PV, 1>(state, n, decay + i, dx + i * PV, B + i * n, C + i * n, out + i * PV);
            for (i = 0; i < count; ++i) {
                const long t = back ? L - 1 - (start + i) : start + i;
                EACH(v, PV) {
                    vec sum = out[i * PV + v];
                    if (back) sum += there[t * PV + v];
                    T *target = y + ((b * L + t) * in.heads + head) * in.width + v * LANES;
                    if (last) store(target, sum, std::max(0, std::min(LANES, in.width - v * LANES)));
                    else there[t * PV + v] = sum;
                }
            }
        }
    }
}

template <typename T>
ALWAYS void head_any(const Inputs<T> &in, T *y, long b, int head) {
    if (in.width > 2 * LANES) head_task<4>(in, y, b, head);
    else if (in.width > LANES) head_task<2>(in, y, b, head);
    else head_task<1>(in, y, b, head);
}

CLONES void head_chosen(const Inputs<float> &in, float *y, long b, int head) { head_any(in, y, b, head); }
CLONES void head_chosen(const Inputs<bf16> &in, bf16 *y, long b, int head) { head_any(in, y, b, head); }

template <typename T>
void forward(const Inputs<T> &in, T *y, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long task = 0; task < in.batch * in.heads; ++task) head_chosen(in, y, task / in.heads, (int)(task % in.heads));
}

}  // namespace

extern "C" {

int diffmf_ssd_widest_head() { return 4 * LANES; }

// strides: of x, delta, B, C, each batch then token.
void diffmf_ssd_forward_float32(const float *x, const float *delta, const float *A, const float *B, const float *C,
                                float *y, const long *strides, long batch, long length, int heads, int width,
                                int states, int directions, int threads) {
    forward<float>({{x, strides[0], strides[1]}, {delta, strides[2], strides[3]}, A, {B, strides[4], strides[5]},
                    {C, strides[6], strides[7]}, batch, length, heads, width, states, directions}, y, threads);
}

void diffmf_ssd_forward_bfloat16(const bf16 *x, const float *delta, const float *A, const bf16 *B, const bf16 *C,
                                 bf16 *y, const long *strides, long batch, long length, int heads, int width,
                                 int states, int directions, int threads) {
    forward<bf16>({{x, strides[0], strides[1]}, {delta, strides[2], strides[3]}, A, {B, strides[4], strides[5]},
                   {C, strides[6], strides[7]}, batch, length, heads, width, states, directions}, y, threads);
}

}  // extern "C"
