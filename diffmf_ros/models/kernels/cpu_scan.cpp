// SPDX-License-Identifier: Apache-2.0
// Fused SS2D for the CPU: four directions, delta projection, softplus, selective scan, skip, merge.
//
// Token-major storage: the D channels of a token are contiguous, so a direction is only another order
// of visiting the tokens and the four results are added in place. A task owns one image of the batch
// and one block of channels; its state stays in registers. Every sum that crosses channels or images
// is returned in parts that the caller adds, so no two tasks write the same place and results do not
// depend on the number of threads. A plain C interface: nothing of Python or torch is compiled in.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif
#define ALWAYS inline __attribute__((always_inline))
#define INLINE static ALWAYS

namespace {

constexpr int LANES = 16;
constexpr int DIRECTIONS = 4;
constexpr int MAX_BLOCK = 4;  // vectors in a channel block: 64 channels
typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int ivec __attribute__((vector_size(LANES * sizeof(int))));

struct Shape {
    long batch, height, width;
    int channels, states, rank;
    long length() const { return height * width; }
    int record() const { return rank + 2 * states; }  // per token and direction: delta, B, C
};

struct Inputs {
    const float *u;          // batch x length x channels
    const float *proj;       // batch x length x 4 x record
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

// Zeroed vectors; std::vector would drop the alignment of the element type.
class Scratch {
public:
    explicit Scratch(long count) : data_((vec *)std::aligned_alloc(sizeof(vec), std::max(count, 1L) * sizeof(vec))), count_(count) {
        if (!data_) throw std::bad_alloc();
        clear();
    }
    ~Scratch() { std::free(data_); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    void clear() { memset((void *)data_, 0, count_ * sizeof(vec)); }
    ALWAYS vec &operator[](long i) { return data_[i]; }
    ALWAYS const vec &operator[](long i) const { return data_[i]; }

private:
    vec *data_;
    long count_;
};

INLINE vec splat(float x) { return vec{} + x; }

INLINE vec load(const float *p, int n) {
    vec v = {};
    if (n == LANES) memcpy(&v, p, sizeof v);
    else memcpy(&v, p, n * sizeof(float));
    return v;
}

INLINE void store(float *p, vec v, int n) {
    if (n == LANES) memcpy(p, &v, sizeof v);
    else memcpy(p, &v, n * sizeof(float));
}

// Column of a row-major (channels x stride) table: entry `column` of each of n rows.
INLINE vec gather(const float *p, int stride, int n) {
    vec v = {};
    for (int i = 0; i < n; ++i) v[i] = p[(long)i * stride];
    return v;
}

INLINE void scatter(float *p, int stride, vec v, int n) {
    for (int i = 0; i < n; ++i) p[(long)i * stride] = v[i];
}

INLINE float total(vec v) {
    float s = 0;
    for (int i = 0; i < LANES; ++i) s += v[i];
    return s;
}

// exp(x) for x <= 0, relative error below 2e-7; 2^-126 and less become 0 or 2^-126.
INLINE vec exp_negative(vec x) {
    vec t = x * splat(1.4426950408889634f);
    t = t < splat(-126.0f) ? splat(-126.0f) : t;
    const vec magic = splat(12582912.0f);  // adding and subtracting it rounds to the nearest integer
    vec whole = (t + magic) - magic;
    vec f = t - whole;
    vec p = splat(1.5403530e-4f);
    p = p * f + splat(1.3333558e-3f);
    p = p * f + splat(9.6181291e-3f);
    p = p * f + splat(5.5504109e-2f);
    p = p * f + splat(2.4022651e-1f);
    p = p * f + splat(6.9314718e-1f);
    p = p * f + splat(1.0f);
    ivec bits = (__builtin_convertvector(whole, ivec) + 127) << 23;
    vec scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

// log(1 + exp(x)); log1p by the atanh series, whose argument z / (2 + z) is at most 1/3.
INLINE vec softplus(vec x) {
    vec z = exp_negative(x > splat(0.0f) ? -x : x);
    vec s = z / (z + splat(2.0f));
    vec q = s * s;
    vec p = splat(2.0f / 13);
    p = p * q + splat(2.0f / 11);
    p = p * q + splat(2.0f / 9);
    p = p * q + splat(2.0f / 7);
    p = p * q + splat(2.0f / 5);
    p = p * q + splat(2.0f / 3);
    p = p * q + splat(2.0f);
    return (x > splat(0.0f) ? x : splat(0.0f)) + s * p;
}

// Token visited at step t: raster, column-major, and the reverses of both.
INLINE long token(const Shape &s, int direction, long t) {
    if (direction >= 2) t = s.length() - 1 - t;
    return direction % 2 == 0 ? t : (t % s.height) * s.width + t / s.height;
}

// The parameters of one direction for one block of channels, unpacked into vectors.
template <int NV>
struct Block {
    int first, lanes[NV], direction;
    Scratch A, dt_weight;  // [state][vector], [rank][vector]
    vec bias[NV], skip[NV];

    explicit Block(const Shape &s) : A(s.states * NV), dt_weight(s.rank * NV) {}

    ALWAYS void unpack(const Shape &s, const Inputs &in, int k, int first_channel) {
        first = first_channel;
        direction = k;
        for (int v = 0; v < NV; ++v) {
            const int c = first + v * LANES;
            const long row = (long)k * s.channels + c;
            lanes[v] = std::max(0, std::min(LANES, s.channels - c));
            bias[v] = load(in.dt_bias + row, lanes[v]);
            skip[v] = load(in.skip + row, lanes[v]);
            for (int j = 0; j < s.states; ++j) A[j * NV + v] = gather(in.A + row * s.states + j, s.states, lanes[v]);
            for (int r = 0; r < s.rank; ++r)
                dt_weight[r * NV + v] = gather(in.dt_weight + row * s.rank + r, s.rank, lanes[v]);
        }
    }

    ALWAYS vec delta(const float *low, int rank, int v) const {
        vec x = bias[v];
        for (int r = 0; r < rank; ++r) x += dt_weight[r * NV + v] * splat(low[r]);
        return softplus(x);
    }
};

// ONE: a single state per channel, kept in registers; otherwise the states live in a small array.
template <int NV, bool ONE>
INLINE void forward_task(const Shape &s, const Inputs &in, float *y, long b, int first) {
    const int N = ONE ? 1 : s.states, D = s.channels;
    const long L = s.length();
    Block<NV> block(s);
    Scratch state(N * NV);
    for (int k = 0; k < DIRECTIONS; ++k) {
        block.unpack(s, in, k, first);
        state.clear();
        vec h1[NV] = {};
        for (long t = 0; t < L; ++t) {
            const long at = b * L + token(s, k, t);
            const float *low = in.proj + (at * DIRECTIONS + k) * s.record();
            const float *Bt = low + s.rank, *Ct = Bt + N;
            for (int v = 0; v < NV; ++v) {
                const int n = block.lanes[v];
                const vec u = load(in.u + at * D + first + v * LANES, n);
                const vec delta = block.delta(low, s.rank, v);
                const vec du = delta * u;
                vec out = block.skip[v] * u;
                if (ONE) {
                    h1[v] = exp_negative(delta * block.A[v]) * h1[v] + du * splat(Bt[0]);
                    out += h1[v] * splat(Ct[0]);
                } else {
                    for (int j = 0; j < N; ++j) {
                        vec &h = state[j * NV + v];
                        h = exp_negative(delta * block.A[j * NV + v]) * h + du * splat(Bt[j]);
                        out += h * splat(Ct[j]);
                    }
                }
                float *target = y + at * D + first + v * LANES;
                store(target, k == 0 ? out : out + load(target, n), n);
            }
        }
    }
}

template <int NV>
INLINE void backward_direction(const Shape &s, const Inputs &in, const Gradients &g, long b, int part,
                               const Block<NV> &block, Scratch &tape) {
    const int N = s.states, D = s.channels, k = block.direction;
    const long L = s.length();
    const int row = (1 + 2 * N) * NV;  // per step: delta, then decay and state of every state index
    for (long t = 0; t < L; ++t) {
        const long at = b * L + token(s, k, t);
        const float *low = in.proj + (at * DIRECTIONS + k) * s.record();
        vec *now = &tape[t * row];
        const vec *before = now - row;
        for (int v = 0; v < NV; ++v) {
            const vec u = load(in.u + at * D + block.first + v * LANES, block.lanes[v]);
            const vec delta = block.delta(low, s.rank, v);
            now[v] = delta;
            for (int j = 0; j < N; ++j) {
                const int decay_at = (1 + 2 * j) * NV + v, state_at = decay_at + NV;
                const vec decay = exp_negative(delta * block.A[j * NV + v]);
                const vec previous = t ? before[state_at] : vec{};
                now[decay_at] = decay;
                now[state_at] = decay * previous + delta * u * splat(low[s.rank + j]);
            }
        }
    }

    Scratch carry(N * NV), dA(N * NV), dweight(s.rank * NV), dBC(2 * N), dlow(s.rank);
    vec dbias[NV] = {}, dskip[NV] = {};
    for (long t = L - 1; t >= 0; --t) {
        const long at = b * L + token(s, k, t);
        const long record = (at * DIRECTIONS + k) * s.record();
        const float *low = in.proj + record, *Bt = low + s.rank, *Ct = Bt + N;
        const vec *now = &tape[t * row], *before = now - row;
        dBC.clear();
        dlow.clear();
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
            const vec dx = ddelta * (splat(1.0f) - exp_negative(-delta));  // softplus' = 1 - exp(-softplus)
            dskip[v] += dy * u;
            dbias[v] += dx;
            for (int r = 0; r < s.rank; ++r) {
                dweight[r * NV + v] += dx * splat(low[r]);
                dlow[r] += dx * block.dt_weight[r * NV + v];
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
INLINE void backward_task(const Shape &s, const Inputs &in, const Gradients &g, long b, int first, int part) {
    Block<NV> block(s);
    Scratch tape(s.length() * (1 + 2 * s.states) * NV);
    for (int k = 0; k < DIRECTIONS; ++k) {
        block.unpack(s, in, k, first);
        backward_direction<NV>(s, in, g, b, part, block, tape);
    }
}

// The clones are chosen per task, outside OpenMP: an outlined parallel region would lose them.
CLONES void forward_any(const Shape &s, const Inputs &in, float *y, long b, int first, int vectors) {
    const bool one = s.states == 1;
    if (vectors == 4 && one) forward_task<4, true>(s, in, y, b, first);
    else if (vectors == 4) forward_task<4, false>(s, in, y, b, first);
    else if (vectors == 2 && one) forward_task<2, true>(s, in, y, b, first);
    else if (vectors == 2) forward_task<2, false>(s, in, y, b, first);
    else if (one) forward_task<1, true>(s, in, y, b, first);
    else forward_task<1, false>(s, in, y, b, first);
}

CLONES void backward_any(const Shape &s, const Inputs &in, const Gradients &g, long b, int first, int part, int vectors) {
    if (vectors == 4) backward_task<4>(s, in, g, b, first, part);
    else if (vectors == 2) backward_task<2>(s, in, g, b, first, part);
    else backward_task<1>(s, in, g, b, first, part);
}

}  // namespace

extern "C" {

// Number of vectors in a channel block: the widest block that still gives every thread a task.
int diffmf_block_vectors(long batch, int channels, int threads) {
    int vectors = MAX_BLOCK;
    while (vectors > 1) {
        const long blocks = (channels + vectors * LANES - 1) / (vectors * LANES);
        if (batch * blocks >= threads && (vectors / 2) * LANES < channels) break;
        vectors /= 2;
    }
    return vectors;
}

void diffmf_ss2d_forward(const float *u, const float *proj, const float *dt_weight, const float *dt_bias,
                         const float *A, const float *skip, float *y, long batch, long height, long width,
                         int channels, int states, int rank, int vectors, int threads) {
    const Shape s = {batch, height, width, channels, states, rank};
    const Inputs in = {u, proj, dt_weight, dt_bias, A, skip};
    const int width_of_block = vectors * LANES, blocks = (channels + width_of_block - 1) / width_of_block;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long task = 0; task < batch * blocks; ++task)
        forward_any(s, in, y, task / blocks, (int)(task % blocks) * width_of_block, vectors);
}

void diffmf_ss2d_backward(const float *u, const float *proj, const float *dt_weight, const float *dt_bias,
                          const float *A, const float *skip, const float *dy, float *du, float *dproj,
                          float *ddt_weight, float *ddt_bias, float *dA, float *dskip, long batch, long height,
                          long width, int channels, int states, int rank, int vectors, int threads) {
    const Shape s = {batch, height, width, channels, states, rank};
    const Inputs in = {u, proj, dt_weight, dt_bias, A, skip};
    const Gradients g = {dy, du, dproj, ddt_weight, ddt_bias, dA, dskip};
    const int width_of_block = vectors * LANES, blocks = (channels + width_of_block - 1) / width_of_block;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long task = 0; task < batch * blocks; ++task) {
        const int part = (int)(task % blocks);
        backward_any(s, in, g, task / blocks, part * width_of_block, part, vectors);
    }
}

}  // extern "C"
