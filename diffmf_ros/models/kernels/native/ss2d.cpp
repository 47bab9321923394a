// SPDX-License-Identifier: Apache-2.0
// Fused SS2D for the CPU: four directions, delta projection, softplus, selective scan, skip, merge.
//
// Token-major storage: the D channels of a token are contiguous, so a direction is only another order
// of visiting the tokens. A task owns one image of the batch and one block of channels, of which it
// makes a dense copy: what the four passes touch then fits a cache. Its state stays in registers.
// Every sum that crosses channels or images is returned in parts that the caller adds, so no two
// tasks write the same place and results do not depend on the number of threads.

#include "vectors.h"

namespace {

constexpr int DIRECTIONS = 4;
constexpr int MAX_BLOCK = 4;  // vectors in a channel block: 64 channels
constexpr int AHEAD = 8;  // tokens to prefetch
constexpr int MAX_RECORD = 64;  // values of a token and direction that are widened on the stack

struct Shape {
    long batch, height, width;
    int channels, states, rank;
    ALWAYS long length() const { return height * width; }
    ALWAYS int record() const { return rank + 2 * states; }  // per token and direction: delta, B, C
};

// T is the type of the activations.
template <typename T>
struct Inputs {
    const T *u;              // batch x length x channels
    const T *proj;           // batch x length x 4 x record
    const float *dt_weight;  // 4 x channels x rank
    const float *dt_bias;    // 4 x channels
    const float *A;          // 4 x channels x states, negative
    const float *skip;       // 4 x channels
};

struct Gradients {
    const float *y;  // batch x length x channels
    float *u;        // batch x length x channels
    float *proj;     // blocks x batch x length x 4 x record
    float *dt_weight, *dt_bias, *A, *skip;  // as the inputs, each with a leading batch axis
};

// The order of a direction: `outer` lines of `inner` tokens; raster, column-major, and their reverses.
struct Order {
    long first, outer, inner, outer_step, inner_step;
    ALWAYS Order(const Shape &s, int direction) {
        const bool columns = direction % 2, reverse = direction >= 2;
        outer = columns ? s.width : s.height;
        inner = columns ? s.height : s.width;
        outer_step = columns ? 1 : s.width;
        inner_step = columns ? s.width : 1;
        first = reverse ? s.length() - 1 : 0;
        if (reverse) outer_step = -outer_step, inner_step = -inner_step;
    }
    // The token visited at step t.
    ALWAYS long at(long t) const { return first + t / inner * outer_step + t % inner * inner_step; }
};

// The parameters of one direction for one block of channels, unpacked into vectors.
template <int NV>
struct Block {
    int first, lanes[NV], direction;
    vec *A, *dt_weight;  // [state][vector], [rank][vector], the weight and bias in units of log 2
    vec bias[NV], skip[NV];

    // memory holds size(s) vectors.
    ALWAYS Block(const Shape &s, vec *memory) : A(memory), dt_weight(memory + s.states * NV) {}
    static ALWAYS long size(const Shape &s) { return (s.states + s.rank) * NV; }

    template <typename T>
    ALWAYS void unpack(const Shape &s, const Inputs<T> &in, int k, int first_channel) {
        first = first_channel;
        direction = k;
        for (int v = 0; v < NV; ++v) {
            const int c = first + v * LANES;
            const long row = (long)k * s.channels + c;
            lanes[v] = std::max(0, std::min(LANES, s.channels - c));
            bias[v] = load(in.dt_bias + row, lanes[v]) * splat(LOG2_E);
            skip[v] = load(in.skip + row, lanes[v]);
            for (int j = 0; j < s.states; ++j) A[j * NV + v] = gather(in.A + row * s.states + j, s.states, lanes[v]);
            for (int r = 0; r < s.rank; ++r)
                dt_weight[r * NV + v] = gather(in.dt_weight + row * s.rank + r, s.rank, lanes[v]) * splat(LOG2_E);
        }
    }

    // The step size of vector v, divided by log 2.
    ALWAYS vec delta2(const float *low, int rank, int v) const {
        vec x = bias[v];
        for (int r = 0; r < rank; ++r) x += dt_weight[r * NV + v] * splat(low[r]);
        return softplus2(x);
    }
};

// Widen the record of a token; floats are used where they are.
INLINE const float *widened(const float *record, int, float *) { return record; }
INLINE const float *widened(const bf16 *record, int count, float *buffer) {
    for (int i = 0; i < count; ++i) buffer[i] = value(record[i]);
    return buffer;
}

// T tokens of a direction, `step` apart from `at`. u_ and sum are the dense copy of the block and the sum
// over directions, L x NV each; direction 0 fills the copy from in.u, direction 3 writes the result to y.
template <int NV, int T, typename Type>
INLINE void forward_tokens(const Shape &s, const Inputs<Type> &in, Type *y, long image, long at, long step,
                           const Block<NV> &block, vec *state, vec *u_, vec *sum) {
    constexpr int M = NV * T;
    const int N = s.states, R = s.rank, record = s.record(), k = block.direction;
    float buffer[T][MAX_RECORD];
    const float *low[T];
    vec delta[M], du[M], out[M];
    EACH(t, T) {
        const Type *source = in.proj + ((image + at + t * step) * DIRECTIONS + k) * record;
        low[t] = widened(source, record, buffer[t]);
        if (k % 2) {  // a column has another page in every row: no hardware prefetch
            const long there = (at + (t + AHEAD) * step) * NV;
            __builtin_prefetch(source + AHEAD * step * DIRECTIONS * record);
            EACH(v, NV) __builtin_prefetch(u_ + there + v);
            EACH(v, NV) __builtin_prefetch(sum + there + v);
        }
    }
    EACH(i, M) delta[i] = block.bias[i % NV];
    for (int r = 0; r < R; ++r) EACH(i, M) delta[i] += block.dt_weight[r * NV + i % NV] * splat(low[i / NV][r]);
    softplus2(delta);
    EACH(i, M) {
        const long token = at + (i / NV) * step, place = token * NV + i % NV;
        vec u;
        if (k == 0) u_[place] = u = load(in.u + (image + token) * s.channels + block.first + i % NV * LANES, block.lanes[i % NV]);
        else u = u_[place];
        du[i] = delta[i] * u;
        out[i] = block.skip[i % NV] * u;
        if (k > 0) out[i] += sum[place];
    }
    for (int j = 0; j < N; ++j) {
        vec decay[M], h[NV];
        EACH(i, M) decay[i] = delta[i] * block.A[j * NV + i % NV];
        exp2_negative(decay);
        EACH(v, NV) h[v] = state[j * NV + v];
        EACH(i, M) {
            h[i % NV] = decay[i] * h[i % NV] + du[i] * splat(low[i / NV][R + j] * LN_2);
            out[i] += h[i % NV] * splat(low[i / NV][R + N + j]);
        }
        EACH(v, NV) state[j * NV + v] = h[v];
    }
    EACH(i, M) {
        const long token = at + (i / NV) * step;
        if (k < 3) sum[token * NV + i % NV] = out[i];
        else store(y + (image + token) * s.channels + block.first + i % NV * LANES, out[i], block.lanes[i % NV]);
    }
}

template <int NV, typename Type>
INLINE void forward_direction(const Shape &s, const Inputs<Type> &in, Type *y, long b, Block<NV> &block, vec *state, vec *u,
                              vec *sum) {
    constexpr int T = TOGETHER / NV;
    const Order order(s, block.direction);
    const long image = b * s.length(), step = order.inner_step;
    memset((void *)state, 0, s.states * NV * sizeof(vec));
    for (long o = 0; o < order.outer; ++o) {
        long at = order.first + o * order.outer_step, i = 0;
        for (; i + T <= order.inner; i += T, at += T * step)
            forward_tokens<NV, T>(s, in, y, image, at, step, block, state, u, sum);
        for (; i < order.inner; ++i, at += step)
            forward_tokens<NV, 1>(s, in, y, image, at, step, block, state, u, sum);
    }
}

template <int NV, typename Type>
INLINE void forward_task(const Shape &s, const Inputs<Type> &in, Type *y, long b, int first) {
    static thread_local Kept kept;
    const long L = s.length(), small = Block<NV>::size(s);
    vec *memory = kept.take(small + s.states * NV + 2 * L * NV);
    vec *state = memory + small, *u = state + s.states * NV, *sum = u + L * NV;
    Block<NV> block(s, memory);
    for (int k = 0; k < DIRECTIONS; ++k) {
        block.unpack(s, in, k, first);
        forward_direction<NV>(s, in, y, b, block, state, u, sum);
    }
}

template <int NV>
INLINE void backward_direction(const Shape &s, const Inputs<float> &in, const Gradients &g, long b, int part,
                               const Block<NV> &block, vec *tape, vec *scratch) {
    const int N = s.states, D = s.channels, k = block.direction;
    const long L = s.length();
    const Order order(s, k);
    const int row = (1 + 2 * N) * NV;  // per step: delta, then decay and state of every state index
    for (long t = 0; t < L; ++t) {
        const long at = b * L + order.at(t);
        const float *low = in.proj + (at * DIRECTIONS + k) * s.record();
        vec *now = &tape[t * row];
        const vec *before = now - row;
        for (int v = 0; v < NV; ++v) {
            const vec u = load(in.u + at * D + block.first + v * LANES, block.lanes[v]);
            const vec delta2 = block.delta2(low, s.rank, v), delta = delta2 * splat(LN_2);
            now[v] = delta;
            for (int j = 0; j < N; ++j) {
                const int decay_at = (1 + 2 * j) * NV + v, state_at = decay_at + NV;
                const vec decay = exp2_negative(delta2 * block.A[j * NV + v]);
                const vec previous = t ? before[state_at] : vec{};
                now[decay_at] = decay;
                now[state_at] = decay * previous + delta * u * splat(low[s.rank + j]);
            }
        }
    }

    // Summed over the tokens, then over the channels of one token.
    vec *carry = scratch, *dA = carry + N * NV, *dweight = dA + N * NV, *dBC = dweight + s.rank * NV, *dlow = dBC + 2 * N;
    memset((void *)scratch, 0, (2 * N + s.rank) * NV * sizeof(vec));
    vec dbias[NV] = {}, dskip[NV] = {};
    for (long t = L - 1; t >= 0; --t) {
        const long at = b * L + order.at(t);
        const long record = (at * DIRECTIONS + k) * s.record();
        const float *low = in.proj + record, *Bt = low + s.rank, *Ct = Bt + N;
        const vec *now = &tape[t * row], *before = now - row;
        memset((void *)dBC, 0, (2 * N + s.rank) * sizeof(vec));
        for (int v = 0; v < NV; ++v) {
            const int n = block.lanes[v];
            const long place = at * D + block.first + v * LANES;
            const vec u = load(in.u + place, n), dy = load(g.y + place, n), delta = now[v];
            vec du = block.skip[v] * dy, ddelta = {};
            for (int j = 0; j < N; ++j) {
                const int decay_at = (1 + 2 * j) * NV + v, state_at = decay_at + NV, i = j * NV + v;
                const vec G = dy * splat(Ct[j]) + carry[i];
                const vec decayed = now[decay_at] * (t ? before[state_at] : vec{});
                dBC[j] += G * delta * u;
                dBC[N + j] += dy * now[state_at];
                du += G * delta * splat(Bt[j]);
                ddelta += G * (splat(Bt[j]) * u + block.A[i] * decayed);
                dA[i] += G * delta * decayed;
                carry[i] = now[decay_at] * G;
            }
            const vec dx = ddelta * (splat(1.0f) - exp2_negative(-delta * splat(LOG2_E)));  // softplus' = 1 - exp(-softplus)
            dskip[v] += dy * u;
            dbias[v] += dx;
            for (int r = 0; r < s.rank; ++r) {
                dweight[r * NV + v] += dx * splat(low[r]);
                dlow[r] += dx * block.dt_weight[r * NV + v] * splat(LN_2);
            }
            float *target = g.u + place;
            store(target, k == 0 ? du : du + load(target, n), n);
        }
        float *out = g.proj + part * s.batch * s.length() * DIRECTIONS * s.record() + record;
        for (int r = 0; r < s.rank; ++r) out[r] = total(dlow[r]);
        for (int j = 0; j < 2 * N; ++j) out[s.rank + j] = total(dBC[j]);
    }

    for (int v = 0; v < NV; ++v) {
        const int n = block.lanes[v];
        const long at = (b * DIRECTIONS + k) * D + block.first + v * LANES;
        store(g.dt_bias + at, dbias[v], n);
        store(g.skip + at, dskip[v], n);
        for (int j = 0; j < N; ++j) scatter(g.A + at * N + j, N, dA[j * NV + v], n);
        for (int r = 0; r < s.rank; ++r) scatter(g.dt_weight + at * s.rank + r, s.rank, dweight[r * NV + v], n);
    }
}

template <int NV>
INLINE void backward_task(const Shape &s, const Inputs<float> &in, const Gradients &g, long b, int first, int part) {
    static thread_local Kept kept;
    const long small = Block<NV>::size(s), sums = (2 * s.states + s.rank) * (NV + 1);
    vec *memory = kept.take(small + sums + s.length() * (1 + 2 * s.states) * NV);
    Block<NV> block(s, memory);
    for (int k = 0; k < DIRECTIONS; ++k) {
        block.unpack(s, in, k, first);
        backward_direction<NV>(s, in, g, b, part, block, memory + small + sums, memory + small);
    }
}

template <typename T>
void forward_any(const Shape &s, const Inputs<T> &in, T *y, long b, int first, int vectors) {
    if (vectors == 4) forward_task<4>(s, in, y, b, first);
    else if (vectors == 2) forward_task<2>(s, in, y, b, first);
    else forward_task<1>(s, in, y, b, first);
}

void backward_any(const Shape &s, const Inputs<float> &in, const Gradients &g, long b, int first, int part, int vectors) {
    if (vectors == 4) backward_task<4>(s, in, g, b, first, part);
    else if (vectors == 2) backward_task<2>(s, in, g, b, first, part);
    else backward_task<1>(s, in, g, b, first, part);
}

template <typename T>
int forward(const T *u, const T *proj, const float *dt_weight, const float *dt_bias, const float *A,
            const float *skip, T *y, const Shape &s, int vectors, int threads) {
    const Inputs<T> in = {u, proj, dt_weight, dt_bias, A, skip};
    const int width_of_block = vectors * LANES, blocks = (s.channels + width_of_block - 1) / width_of_block;
    return each_task(s.batch * blocks, threads, [&](long task) {
        forward_any(s, in, y, task / blocks, (int)(task % blocks) * width_of_block, vectors);
    });
}

}  // namespace

extern "C" {

// Number of vectors in a channel block: the widest block that still gives every thread a task.
int diffmf_block_vectors(long batch, int channels, int threads, int widest) {
    int vectors = std::min(widest, MAX_BLOCK);
    while (vectors > 1) {
        const long blocks = (channels + vectors * LANES - 1) / (vectors * LANES);
        if (batch * blocks >= threads && (vectors / 2) * LANES < channels) break;
        vectors /= 2;
    }
    return vectors;
}

int diffmf_ss2d_largest_record() { return MAX_RECORD; }

// The functions from here on return what each_task returns.

int diffmf_ss2d_forward_float32(const float *u, const float *proj, const float *dt_weight, const float *dt_bias,
                                const float *A, const float *skip, float *y, long batch, long height, long width,
                                int channels, int states, int rank, int vectors, int threads) {
    return forward(u, proj, dt_weight, dt_bias, A, skip, y, {batch, height, width, channels, states, rank}, vectors, threads);
}

int diffmf_ss2d_forward_bfloat16(const bf16 *u, const bf16 *proj, const float *dt_weight, const float *dt_bias,
                                 const float *A, const float *skip, bf16 *y, long batch, long height, long width,
                                 int channels, int states, int rank, int vectors, int threads) {
    return forward(u, proj, dt_weight, dt_bias, A, skip, y, {batch, height, width, channels, states, rank}, vectors, threads);
}

int diffmf_ss2d_backward(const float *u, const float *proj, const float *dt_weight, const float *dt_bias,
                         const float *A, const float *skip, const float *dy, float *du, float *dproj,
                         float *ddt_weight, float *ddt_bias, float *dA, float *dskip, long batch, long height,
                         long width, int channels, int states, int rank, int vectors, int threads) {
    const Shape s = {batch, height, width, channels, states, rank};
    const Inputs<float> in = {u, proj, dt_weight, dt_bias, A, skip};
    const Gradients g = {dy, du, dproj, ddt_weight, ddt_bias, dA, dskip};
    const int width_of_block = vectors * LANES, blocks = (channels + width_of_block - 1) / width_of_block;
    return each_task(batch * blocks, threads, [&](long task) {
        const int part = (int)(task % blocks);
        backward_any(s, in, g, task / blocks, part * width_of_block, part, vectors);
    });
}

}  // extern "C"
