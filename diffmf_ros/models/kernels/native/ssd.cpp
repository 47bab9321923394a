// SPDX-License-Identifier: Apache-2.0
// Mamba-2's scan for the CPU: the plain recurrence S_t = a_t S_(t-1) + B_t (delta_t x_t)', y_t = C_t S_t.
//
// A task owns one head of one sequence. Its state, n x p, stays in the first-level cache, and several
// tokens pass over it at once, so that it is loaded and stored once for all of them.
//
// The backward pass has the n states in the lanes, where only the gradient of x needs sums over lanes. It
// keeps the state that enters each chunk of tokens and, from the last chunk to the first, computes the
// states inside the chunk again and runs G_t = dy_t C_t' + a_(t+1) G_(t+1).

#include "vectors.h"

namespace {

constexpr int TOKENS = 4;  // that pass over the state together
constexpr int TILE = 16;  // tokens whose decays are computed together
constexpr int CHUNK = LANES;  // tokens of a chunk of the backward pass, one in each lane of what is one number a token
// Rows of the state (of p) and vectors of a row that are computed in step.
constexpr int ROWS = 4, PAIR = 2, BLOCK = ROWS * PAIR;

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

// The gradient of y is given, the others are dense; A is b x heads, B and C are heads x b x l x n.
struct Gradients {
    Sequence<float> y;
    float *x, *delta, *A, *B, *C;
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

// One chunk of one head. Missing tokens, rows and states are zero, so that nothing comes of them.
struct Chunk {
    int groups, vectors;  // of ROWS rows; of states, even
    float *dx, *dy, *gx;  // delta x and the gradients of y and of delta x: CHUNK x row()
    vec *B, *C, *gB, *gC;  // CHUNK x vectors
    alignas(vec) float delta[CHUNK], decay[CHUNK];
    vec through[CHUNK];  // the sum of the lanes is the gradient of the token's decay

    ALWAYS explicit Chunk(const Inputs<float> &in)
        : groups((in.width + ROWS - 1) / ROWS), vectors((in.states + PAIR * LANES - 1) / (PAIR * LANES) * PAIR) {}
    // memory holds size() vectors.
    ALWAYS void place(vec *memory) {
        dx = (float *)memory, dy = dx + CHUNK * row(), gx = dy + CHUNK * row();
        B = (vec *)(gx + CHUNK * row()), C = B + CHUNK * vectors, gB = C + CHUNK * vectors, gC = gB + CHUNK * vectors;
        clear();
    }
    ALWAYS void clear() { memset((void *)dx, 0, size() * sizeof(vec)), memset(delta, 0, sizeof delta); }
    ALWAYS void clear_sums() {
        memset((void *)gB, 0, 2L * CHUNK * vectors * sizeof(vec));
        memset((void *)through, 0, sizeof through);
    }
    ALWAYS int row() const { return (groups * ROWS + LANES - 1) / LANES * LANES; }
    ALWAYS long size() const { return CHUNK * (3L * row() / LANES + 4 * vectors); }
    ALWAYS long state_size() const { return (long)groups * ROWS * vectors; }
    // A block of the state: ROWS x PAIR vectors, those of a group beside each other.
    ALWAYS long block(int group, int q) const { return (long)group * ROWS * vectors + q * ROWS; }
};

// The number of values in the i-th vector of a row.
INLINE int lanes(int count, int i) { return std::max(0, std::min(LANES, count - i * LANES)); }

// Read the tokens `first + i * step`, i < count; without WHOLE only what changes the state.
template <bool WHOLE>
INLINE void read(Chunk &c, const Inputs<float> &in, const Gradients &g, long b, int head, long first, long step,
                 int count) {
    if (count < CHUNK) c.clear();
    for (int i = 0; i < count; ++i) {
        const long t = first + i * step;
        const float delta = in.delta.at(b, t)[head];
        const float *x = in.x.at(b, t) + (long)head * in.width, *dy = g.y.at(b, t) + (long)head * in.width;
        c.delta[i] = delta;
        for (int v = 0; v * LANES < in.width; ++v) {
            const int n = lanes(in.width, v), at = i * c.row() + v * LANES;
            store(c.dx + at, load(x + v * LANES, n) * splat(delta));
            if (WHOLE) store(c.dy + at, load(dy + v * LANES, n));
        }
        for (int q = 0; q * LANES < in.states; ++q) {
            c.B[i * c.vectors + q] = load(in.B.at(b, t) + q * LANES, lanes(in.states, q));
            if (WHOLE) c.C[i * c.vectors + q] = load(in.C.at(b, t) + q * LANES, lanes(in.states, q));
        }
    }
    store(c.decay, exp2_negative(load(c.delta) * splat(in.A[head] * LOG2_E)));
}

// Take a block of the state through the chunk. With KEEP the state before each token is left in `before`,
// CHUNK x BLOCK, and the gradient of C is added up.
template <bool KEEP>
INLINE void advance_block(Chunk &c, vec *state, int group, int q, vec *before) {
    const float *dx = c.dx + group * ROWS, *dy = c.dy + group * ROWS;
    vec h[BLOCK];
    EACH(i, BLOCK) h[i] = state[i];
    for (int t = 0; t < CHUNK; ++t, dx += c.row(), dy += c.row()) {
        const vec decay = splat(c.decay[t]);
        vec B[PAIR], gC[PAIR];
        EACH(j, PAIR) B[j] = c.B[t * c.vectors + q + j];
        if (KEEP) EACH(i, BLOCK) before[t * BLOCK + i] = h[i];
        EACH(i, BLOCK) h[i] = h[i] * decay + B[i % PAIR] * splat(dx[i / PAIR]);
        if (!KEEP) continue;
        EACH(j, PAIR) gC[j] = c.gC[t * c.vectors + q + j];
        EACH(i, BLOCK) gC[i % PAIR] += h[i] * splat(dy[i / PAIR]);
        EACH(j, PAIR) c.gC[t * c.vectors + q + j] = gC[j];
    }
    EACH(i, BLOCK) state[i] = h[i];
}

// Take a block of G back through the chunk and add up the gradients; gx: CHUNK x ROWS.
INLINE void return_block(Chunk &c, vec *carry, int group, int q, const vec *before, vec *gx) {
    vec G[BLOCK];
    EACH(i, BLOCK) G[i] = carry[i];
    for (int t = CHUNK - 1; t >= 0; --t) {
        const float *dx = c.dx + t * c.row() + group * ROWS, *dy = c.dy + t * c.row() + group * ROWS;
        const vec decay = splat(c.decay[t]);
        vec B[PAIR], C[PAIR], gB[PAIR], through = c.through[t], sums[ROWS];
        const int at = t * c.vectors + q;
        EACH(j, PAIR) B[j] = c.B[at + j], C[j] = c.C[at + j], gB[j] = c.gB[at + j];
        EACH(r, ROWS) sums[r] = gx[t * ROWS + r];
        EACH(i, BLOCK) {
            G[i] += C[i % PAIR] * splat(dy[i / PAIR]);
            gB[i % PAIR] += G[i] * splat(dx[i / PAIR]);
            sums[i / PAIR] += G[i] * B[i % PAIR];
            through += G[i] * before[t * BLOCK + i];
            G[i] = G[i] * decay;
        }
        EACH(r, ROWS) gx[t * ROWS + r] = sums[r];
        EACH(j, PAIR) c.gB[at + j] = gB[j];
        c.through[t] = through;
    }
    EACH(i, BLOCK) carry[i] = G[i];
}

INLINE void backward_chunk(Chunk &c, vec *state, vec *carry) {
    constexpr int TOKENS_OF_SUMS = LANES / ROWS;
    vec before[CHUNK * BLOCK], gx[CHUNK * ROWS];
    c.clear_sums();
    for (int group = 0; group < c.groups; ++group) {
        memset((void *)gx, 0, sizeof gx);
        for (int q = 0; q < c.vectors; q += PAIR) {
            advance_block<true>(c, state + c.block(group, q), group, q, before);
            return_block(c, carry + c.block(group, q), group, q, before, gx);
        }
        for (int t = 0; t < CHUNK; t += TOKENS_OF_SUMS) {
            vec m[LANES];
            EACH(i, LANES) m[i] = gx[t * ROWS + i];
            float sums[LANES];
            store(sums, totals(m));
            for (int i = 0; i < TOKENS_OF_SUMS; ++i)
                memcpy(c.gx + (t + i) * c.row() + group * ROWS, sums + i * ROWS, ROWS * sizeof(float));
        }
    }
}

INLINE void put(float *to, vec v, int n, bool add) { store(to, add ? v + load(to, n) : v, n); }

// Write or add the gradients of a chunk; returns that of A, to be summed over the lanes.
INLINE vec write(Chunk &c, const Inputs<float> &in, const Gradients &g, long b, int head, long first, long step,
                 int count, bool add) {
    vec direct[LANES] = {};
    for (int i = 0; i < count; ++i) {
        const long t = first + i * step, token = b * in.length + t;
        const float *x = in.x.at(b, t) + (long)head * in.width;
        for (int v = 0; v * LANES < in.width; ++v) {
            const int n = lanes(in.width, v);
            const vec gx = load(c.gx + i * c.row() + v * LANES);
            direct[i] += gx * load(x + v * LANES, n);
            put(g.x + (token * in.heads + head) * in.width + v * LANES, gx * splat(c.delta[i]), n, add);
        }
        const long row = ((head * in.batch + b) * in.length + t) * in.states;
        for (int q = 0; q * LANES < in.states; ++q) {
            put(g.B + row + q * LANES, c.gB[i * c.vectors + q], lanes(in.states, q), add);
            put(g.C + row + q * LANES, c.gC[i * c.vectors + q], lanes(in.states, q), add);
        }
    }
    const vec exponent = totals(c.through) * load(c.decay), delta = totals(direct) + exponent * splat(in.A[head]);
    for (int i = 0; i < count; ++i) {
        float &to = g.delta[(b * in.length + first + i * step) * in.heads + head];
        to = add ? to + delta[i] : delta[i];
    }
    return exponent * load(c.delta);
}

void backward_task(const Inputs<float> &in, const Gradients &g, long b, int head) {
    static thread_local Kept kept;
    const long L = in.length, chunks = (L + CHUNK - 1) / CHUNK;
    Chunk c(in);
    const long state_size = c.state_size();
    vec *state = kept.take((2 + chunks) * state_size + c.size()), *carry = state + state_size;
    vec *entering = carry + state_size, gA = {};
    c.place(entering + chunks * state_size);
    for (int direction = 0; direction < in.directions; ++direction) {
        const long step = direction ? -1 : 1, begin = direction ? L - 1 : 0;
        memset((void *)state, 0, 2 * state_size * sizeof(vec));
        for (long k = 0; k < chunks; ++k) {
            memcpy((void *)(entering + k * state_size), state, state_size * sizeof(vec));
            read<false>(c, in, g, b, head, begin + k * CHUNK * step, step, (int)std::min<long>(CHUNK, L - k * CHUNK));
            for (int group = 0; group < c.groups; ++group)
                for (int q = 0; q < c.vectors; q += PAIR)
                    advance_block<false>(c, state + c.block(group, q), group, q, nullptr);
        }
        for (long k = chunks - 1; k >= 0; --k) {
            const long first = begin + k * CHUNK * step;
            const int count = (int)std::min<long>(CHUNK, L - k * CHUNK);
            read<true>(c, in, g, b, head, first, step, count);
            backward_chunk(c, entering + k * state_size, carry);
            gA += write(c, in, g, b, head, first, step, count, direction > 0);
        }
    }
    g.A[b * in.heads + head] = total(gA);
}

template <typename T>
ALWAYS void head_any(const Inputs<T> &in, T *y, long b, int head) {
    if (in.width > 2 * LANES) head_task<4>(in, y, b, head);
    else if (in.width > LANES) head_task<2>(in, y, b, head);
    else head_task<1>(in, y, b, head);
}

template <typename T>
int forward(const Inputs<T> &in, T *y, int threads) {
    return each_task(in.batch * in.heads, threads,
                     [&](long task) { head_any(in, y, task / in.heads, (int)(task % in.heads)); });
}

}  // namespace

extern "C" {

int diffmf_ssd_widest_head() { return 4 * LANES; }

// The functions from here on return what each_task returns.

// strides: of x, delta, B, C, each batch then token.
int diffmf_ssd_forward_float32(const float *x, const float *delta, const float *A, const float *B, const float *C,
                               float *y, const long *strides, long batch, long length, int heads, int width,
                               int states, int directions, int threads) {
    return forward<float>({{x, strides[0], strides[1]}, {delta, strides[2], strides[3]}, A, {B, strides[4], strides[5]},
                           {C, strides[6], strides[7]}, batch, length, heads, width, states, directions}, y, threads);
}

int diffmf_ssd_forward_bfloat16(const bf16 *x, const float *delta, const float *A, const bf16 *B, const bf16 *C,
                                bf16 *y, const long *strides, long batch, long length, int heads, int width,
                                int states, int directions, int threads) {
    return forward<bf16>({{x, strides[0], strides[1]}, {delta, strides[2], strides[3]}, A, {B, strides[4], strides[5]},
                          {C, strides[6], strides[7]}, batch, length, heads, width, states, directions}, y, threads);
}

// strides: of x, delta, B, C, dy, each batch then token. dA is b x heads; dB and dC are heads x b x l x n.
int diffmf_ssd_backward(const float *x, const float *delta, const float *A, const float *B, const float *C,
                        const float *dy, float *dx, float *ddelta, float *dA, float *dB, float *dC,
                        const long *strides, long batch, long length, int heads, int width, int states,
                        int directions, int threads) {
    const Inputs<float> in = {{x, strides[0], strides[1]}, {delta, strides[2], strides[3]}, A, {B, strides[4], strides[5]},
                              {C, strides[6], strides[7]}, batch, length, heads, width, states, directions};
    const Gradients g = {{dy, strides[8], strides[9]}, dx, ddelta, dA, dB, dC};
    return each_task(batch * heads, threads, [&](long task) { backward_task(in, g, task / heads, (int)(task % heads)); });
}

}  // extern "C"
