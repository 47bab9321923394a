// SPDX-License-Identifier: Apache-2.0
// The selective scan for the CPU, in any storage: channel-major as in mamba_ssm, or token-major.
//
// A task owns one sequence and one block of channels of one group. It works on tiles of tokens: packed
// into vectors of channels (transposed where the storage is channel-major), scanned, unpacked. The
// backward pass keeps the state before each tile and computes what lies inside a tile again.

#include "vectors.h"

namespace {

constexpr int TILE = 32;  // tokens

// A tensor b x rows x l: rows are channels, or the states of the groups one after the other.
struct View {
    float *data;
    long batch_stride, row_stride, token_stride;
    ALWAYS float *at(long b, long row, long t) const { return data + b * batch_stride + row * row_stride + t * token_stride; }
};

struct Inputs {
    View u, delta, B, C;     // b x d x l, b x d x l, b x (g n) x l, b x (g n) x l
    const float *A, *D, *bias;  // d x n, d or null, d or null
    long batch, length;
    int channels, groups, states, softplus;
    ALWAYS int group_channels() const { return channels / groups; }
};

struct Gradients {
    View y, u, delta;     // b x d x l; y is given
    float *B, *C;         // blocks x b x l x (g n)
    float *A, *D, *bias;  // b x d x n, b x d, b x d
};

// Transpose 16 x 16 values in place.
INLINE void transpose(vec (&m)[LANES]) {
    EACH(i, LANES) if (!(i & 8)) swap_halves<8>(m[i], m[i + 8], ivec{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23});
    EACH(i, LANES) if (!(i & 4)) swap_halves<4>(m[i], m[i + 4], ivec{0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27});
    EACH(i, LANES) if (!(i & 2)) swap_halves<2>(m[i], m[i + 2], ivec{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29});
    EACH(i, LANES) if (!(i & 1)) swap_halves<1>(m[i], m[i + 1], ivec{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30});
}

// One vector of channels, `count` tokens from t on, to tile[i * stride]; missing channels become zero.
void pack(const View &view, long b, long channel, int lanes, long t, int count, vec *tile, int stride) {
    if (lanes == LANES && view.token_stride == 1) {
        int i = 0;
        for (; i + LANES <= count; i += LANES) {
            vec m[LANES];
            EACH(c, LANES) m[c] = load(view.at(b, channel + c, t + i));
            transpose(m);
            EACH(k, LANES) tile[(i + k) * stride] = m[k];
        }
        for (; i < count; ++i) tile[i * stride] = gather(view.at(b, channel, t + i), view.row_stride, lanes);
    } else if (view.row_stride == 1 && lanes == LANES) {
        const float *from = view.at(b, channel, t);
        for (int i = 0; i < count; ++i, from += view.token_stride) tile[i * stride] = load(from);
    } else {
        for (int i = 0; i < count; ++i) tile[i * stride] = gather(view.at(b, channel, t + i), view.row_stride, lanes);
    }
}

void unpack(const View &view, long b, long channel, int lanes, long t, int count, const vec *tile, int stride) {
    if (lanes == LANES && view.token_stride == 1) {
        int i = 0;
        for (; i + LANES <= count; i += LANES) {
            vec m[LANES];
            EACH(k, LANES) m[k] = tile[(i + k) * stride];
            transpose(m);
            EACH(c, LANES) store(view.at(b, channel + c, t + i), m[c]);
        }
        for (; i < count; ++i) scatter(view.at(b, channel, t + i), view.row_stride, tile[i * stride], lanes);
    } else if (view.row_stride == 1 && lanes == LANES) {
        float *to = view.at(b, channel, t);
        for (int i = 0; i < count; ++i, to += view.token_stride) store(to, tile[i * stride]);
    } else {
        for (int i = 0; i < count; ++i) scatter(view.at(b, channel, t + i), view.row_stride, tile[i * stride], lanes);
    }
}

// The states' values of `count` tokens, token by token: tile[i * states + j].
INLINE void pack_states(const View &view, long b, long row, int states, long t, int count, float *tile) {
    for (int j = 0; j < states; ++j) {
        const float *from = view.at(b, row + j, t);
        for (int i = 0; i < count; ++i) tile[i * states + j] = from[i * view.token_stride];
    }
}

// What a task works with: parameters of its channels, one tile of inputs, the states.
template <int NV>
struct Task {
    long b, channel, row;
    int lanes[NV];
    vec *A, *A2, *state, *u, *delta;  // N x NV three times, A2 in units of log 2; TILE x NV twice
    float *B, *C;                // TILE x N
    vec D[NV], bias[NV];

    static ALWAYS long size(int states) { return 3L * states * NV + 2 * TILE * NV + 2 * ((TILE * states + LANES - 1) / LANES); }

    ALWAYS Task(const Inputs &in, long image, int group, int block, vec *memory) : b(image) {
        const int N = in.states, e = in.group_channels();
        channel = (long)group * e + block * NV * LANES;
        row = (long)group * N;
        A = memory, A2 = A + N * NV, state = A2 + N * NV, u = state + N * NV, delta = u + TILE * NV;
        B = (float *)(delta + TILE * NV), C = B + (TILE * N + LANES - 1) / LANES * LANES;
        for (int v = 0; v < NV; ++v) {
            const long c = channel + v * LANES;
            lanes[v] = std::max(0, std::min(LANES, e - (block * NV + v) * LANES));
            D[v] = in.D ? load(in.D + c, lanes[v]) : vec{};
            bias[v] = in.bias ? load(in.bias + c, lanes[v]) : vec{};
            for (int j = 0; j < N; ++j) {
                A[j * NV + v] = gather(in.A + c * N + j, N, lanes[v]);
                A2[j * NV + v] = A[j * NV + v] * splat(LOG2_E);
                state[j * NV + v] = vec{};
            }
        }
    }

    // Read `count` tokens from t on; delta becomes the step size.
    ALWAYS void read(const Inputs &in, long t, int count) {
        for (int v = 0; v < NV; ++v) {
            pack(in.u, b, channel + v * LANES, lanes[v], t, count, u + v, NV);
            pack(in.delta, b, channel + v * LANES, lanes[v], t, count, delta + v, NV);
        }
        pack_states(in.B, b, row, in.states, t, count, B);
        pack_states(in.C, b, row, in.states, t, count, C);
        if (in.softplus) for (int i = 0; i < count; ++i) step_size<true>(i);
        else for (int i = 0; i < count; ++i) step_size<false>(i);
    }

    template <bool SOFTPLUS>
    ALWAYS void step_size(int i) {
        vec x[NV];
        EACH(v, NV) x[v] = delta[i * NV + v] + bias[v];
        if (SOFTPLUS) {
            EACH(v, NV) x[v] *= splat(LOG2_E);
            softplus2(x);
            EACH(v, NV) x[v] *= splat(LN_2);
        }
        EACH(v, NV) delta[i * NV + v] = x[v];
    }

    // T tokens from the i-th of the tile on; leaves y where u was.
    template <int T>
    ALWAYS void scan(int N, int i) {
        constexpr int M = NV * T;
        vec du[M], out[M];
        EACH(k, M) du[k] = delta[i * NV + k] * u[i * NV + k];
        EACH(k, M) out[k] = D[k % NV] * u[i * NV + k];
        for (int j = 0; j < N; ++j) {
            vec decay[M], h[NV];
            EACH(k, M) decay[k] = delta[i * NV + k] * A2[j * NV + k % NV];
            exp2_negative(decay);
            EACH(v, NV) h[v] = state[j * NV + v];
            EACH(k, M) {
                h[k % NV] = decay[k] * h[k % NV] + du[k] * splat(B[(i + k / NV) * N + j]);
                out[k] += h[k % NV] * splat(C[(i + k / NV) * N + j]);
            }
            EACH(v, NV) state[j * NV + v] = h[v];
        }
        EACH(k, M) u[i * NV + k] = out[k];
    }

    ALWAYS void scan_tile(int N, int count) {
        constexpr int T = TOGETHER / NV;
        int i = 0;
        for (; i + T <= count; i += T) scan<T>(N, i);
        for (; i < count; ++i) scan<1>(N, i);
    }
};

template <int NV>
INLINE void forward_task(const Inputs &in, const View &y, long b, int group, int block) {
    static thread_local Kept kept;
    Task<NV> task(in, b, group, block, kept.take(Task<NV>::size(in.states)));
    for (long t = 0; t < in.length; t += TILE) {
        const int count = (int)std::min<long>(TILE, in.length - t);
        task.read(in, t, count);
        task.scan_tile(in.states, count);
        for (int v = 0; v < NV; ++v) unpack(y, b, task.channel + v * LANES, task.lanes[v], t, count, task.u + v, NV);
    }
}

// Sums over the tokens of one task. Those of a tile are added to those of the tiles before it: one long
// chain of additions would lose digits.
template <int NV>
struct Sums {
    vec *A, *tile_A, *carry;  // N x NV
    vec D[NV] = {}, bias[NV] = {}, tile_D[NV], tile_bias[NV];

    ALWAYS void begin(int states) {
        for (int k = 0; k < states * NV; ++k) tile_A[k] = vec{};
        EACH(v, NV) tile_D[v] = tile_bias[v] = vec{};
    }
    ALWAYS void end(int states) {
        for (int k = 0; k < states * NV; ++k) A[k] += tile_A[k];
        EACH(v, NV) D[v] += tile_D[v], bias[v] += tile_bias[v];
    }
};

// Gradients of one tile. before: decay and state before each token, TILE x N x 2 x NV.
template <int NV>
INLINE void backward_tile(const Inputs &in, const Gradients &g, Task<NV> &task, Sums<NV> &sums, vec *before, vec *dy,
                          long t, int count, int part) {
    const int N = in.states;
    for (int i = 0; i < count; ++i)
        for (int j = 0; j < N; ++j) {
            vec decay[NV];
            EACH(v, NV) decay[v] = task.delta[i * NV + v] * task.A2[j * NV + v];
            exp2_negative(decay);
            EACH(v, NV) {
                vec &h = task.state[j * NV + v], *tape = before + ((i * N + j) * 2) * NV + v;
                tape[0] = decay[v], tape[NV] = h;
                h = decay[v] * h + task.delta[i * NV + v] * task.u[i * NV + v] * splat(task.B[i * N + j]);
            }
        }
    for (int v = 0; v < NV; ++v) pack(g.y, task.b, task.channel + v * LANES, task.lanes[v], t, count, dy + v, NV);
    const long width = (long)in.groups * N;
    sums.begin(N);
    for (int i = count - 1; i >= 0; --i) {
        const long sum_at = ((part * in.batch + task.b) * in.length + t + i) * width + task.row;
        vec du[NV], ddelta[NV] = {}, delta[NV], u[NV];
        EACH(v, NV) delta[v] = task.delta[i * NV + v], u[v] = task.u[i * NV + v], du[v] = task.D[v] * dy[i * NV + v];
        for (int j = 0; j < N; ++j) {
            const float Bt = task.B[i * N + j], Ct = task.C[i * N + j];
            vec dB = {}, dC = {};
            EACH(v, NV) {
                const vec *tape = before + ((i * N + j) * 2) * NV + v;
                const vec decayed = tape[0] * tape[NV], d = dy[i * NV + v];
                const vec G = d * splat(Ct) + sums.carry[j * NV + v];
                dB += G * delta[v] * u[v];
                dC += d * (decayed + delta[v] * u[v] * splat(Bt));
                du[v] += G * delta[v] * splat(Bt);
                ddelta[v] += G * (splat(Bt) * u[v] + task.A[j * NV + v] * decayed);
                sums.tile_A[j * NV + v] += G * delta[v] * decayed;
                sums.carry[j * NV + v] = tape[0] * G;
            }
            g.B[sum_at + j] = total(dB);
            g.C[sum_at + j] = total(dC);
        }
        EACH(v, NV) {
            sums.tile_D[v] += dy[i * NV + v] * u[v];
            // The derivative of softplus is 1 - exp(-softplus).
            if (in.softplus) ddelta[v] *= splat(1.0f) - exp2_negative(-delta[v] * splat(LOG2_E));
            sums.tile_bias[v] += ddelta[v];
            task.u[i * NV + v] = du[v], dy[i * NV + v] = ddelta[v];
        }
    }
    sums.end(N);
    for (int v = 0; v < NV; ++v) {
        unpack(g.u, task.b, task.channel + v * LANES, task.lanes[v], t, count, task.u + v, NV);
        unpack(g.delta, task.b, task.channel + v * LANES, task.lanes[v], t, count, dy + v, NV);
    }
}

template <int NV>
INLINE void backward_task(const Inputs &in, const Gradients &g, long b, int group, int block) {
    static thread_local Kept kept;
    const int N = in.states;
    const long tiles = (in.length + TILE - 1) / TILE, size = Task<NV>::size(N), sums_size = 3L * N * NV;
    vec *memory = kept.take(size + sums_size + TILE * NV + 2L * TILE * N * NV + tiles * N * NV);
    Task<NV> task(in, b, group, block, memory);
    Sums<NV> sums;
    sums.A = memory + size, sums.tile_A = sums.A + N * NV, sums.carry = sums.tile_A + N * NV;
    vec *dy = sums.carry + N * NV, *before = dy + TILE * NV, *entering = before + 2L * TILE * N * NV;
    memset((void *)sums.A, 0, sums_size * sizeof(vec));
    for (long k = 0; k < tiles; ++k) {
        memcpy((void *)(entering + k * N * NV), task.state, N * NV * sizeof(vec));
        const int count = (int)std::min<long>(TILE, in.length - k * TILE);
        task.read(in, k * TILE, count);
        task.scan_tile(N, count);
    }
    for (long k = tiles - 1; k >= 0; --k) {
        memcpy((void *)task.state, entering + k * N * NV, N * NV * sizeof(vec));
        const int count = (int)std::min<long>(TILE, in.length - k * TILE);
        task.read(in, k * TILE, count);
        backward_tile<NV>(in, g, task, sums, before, dy, k * TILE, count, block);
    }
    for (int v = 0; v < NV; ++v) {
        const long c = b * in.channels + task.channel + v * LANES;
        store(g.D + c, sums.D[v], task.lanes[v]);
        store(g.bias + c, sums.bias[v], task.lanes[v]);
        for (int j = 0; j < N; ++j) scatter(g.A + c * N + j, N, sums.A[j * NV + v], task.lanes[v]);
    }
}

void forward_any(const Inputs &in, const View &y, long b, int group, int block, int vectors) {
    if (vectors == 4) forward_task<4>(in, y, b, group, block);
    else if (vectors == 2) forward_task<2>(in, y, b, group, block);
    else forward_task<1>(in, y, b, group, block);
}

void backward_any(const Inputs &in, const Gradients &g, long b, int group, int block, int vectors) {
    if (vectors == 4) backward_task<4>(in, g, b, group, block);
    else if (vectors == 2) backward_task<2>(in, g, b, group, block);
    else backward_task<1>(in, g, b, group, block);
}

// strides: of every view, each batch, row, token.
View view(const float *data, const long *strides) { return {(float *)data, strides[0], strides[1], strides[2]}; }

Inputs inputs(const float *const *tensors, const long *strides, const long *sizes) {
    return {view(tensors[0], strides), view(tensors[1], strides + 3), view(tensors[2], strides + 6),
            view(tensors[3], strides + 9), tensors[4], tensors[5], tensors[6],
            sizes[0], sizes[1], (int)sizes[2], (int)sizes[3], (int)sizes[4], (int)sizes[5]};
}

}  // namespace

extern "C" {

// Both return what each_task returns.

// tensors: u, delta, B, C, A, D or null, bias or null, y. strides: of u, delta, B, C, y, each batch, row,
// token. sizes: batch, length, channels, groups, states, softplus.
int diffmf_scan_forward(const float *const *tensors, const long *strides, const long *sizes, int vectors, int threads) {
    const Inputs in = inputs(tensors, strides, sizes);
    const View y = view(tensors[7], strides + 12);
    const int width = vectors * LANES, blocks = (in.group_channels() + width - 1) / width;
    return each_task(in.batch * in.groups * blocks, threads, [&](long task) {
        forward_any(in, y, task / (in.groups * blocks), (int)(task / blocks % in.groups), (int)(task % blocks), vectors);
    });
}

// tensors, strides: as before with dy for y, then du, ddelta; tensors then dB, dC (blocks x b x l x (g n)),
// dA, dD, dbias (b x d x n, b x d, b x d).
int diffmf_scan_backward(const float *const *tensors, const long *strides, const long *sizes, int vectors, int threads) {
    const Inputs in = inputs(tensors, strides, sizes);
    const Gradients g = {view(tensors[7], strides + 12), view(tensors[8], strides + 15), view(tensors[9], strides + 18),
                         (float *)tensors[10], (float *)tensors[11], (float *)tensors[12], (float *)tensors[13],
                         (float *)tensors[14]};
    const int width = vectors * LANES, blocks = (in.group_channels() + width - 1) / width;
    return each_task(in.batch * in.groups * blocks, threads, [&](long task) {
        backward_any(in, g, task / (in.groups * blocks), (int)(task / blocks % in.groups), (int)(task % blocks), vectors);
    });
}

}  // extern "C"
