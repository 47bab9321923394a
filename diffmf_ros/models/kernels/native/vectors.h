// SPDX-License-Identifier: Apache-2.0
// Vectors of 16 floats, what the scans compute with them, and memory that is kept between calls.
//
// GCC and clang vector extensions: the compiler makes AVX-512, AVX2, NEON or plain code of them. The build
// compiles these files once for each instruction set (setup.py), and cpu.py loads the widest that the
// processor has. A plain C interface around it: nothing of Python or torch is compiled in.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define ALWAYS inline __attribute__((always_inline))
#define INLINE static ALWAYS

constexpr int LANES = 16;
constexpr int TOGETHER = 4;  // vectors of neighboring tokens that a scan computes in step
typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t ivec __attribute__((vector_size(LANES * sizeof(int32_t))));
typedef uint16_t hvec __attribute__((vector_size(LANES * sizeof(uint16_t))));
typedef uint16_t bf16;  // the upper half of a float

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// A literal becomes one broadcast; `vec{} + x` a store of every lane where there is no AVX-512.
INLINE vec splat(float x) { return vec{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE vec larger(vec a, vec b) { return a > b ? a : b; }

template <typename To, typename From>
INLINE To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits of the same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// n of 16 values, the others zero; bfloat16 is widened.
INLINE vec load(const float *p, int n = LANES) {
    vec v = {};
    if (n == LANES) memcpy(&v, p, sizeof v);
    else memcpy(&v, p, n * sizeof(float));
    return v;
}

INLINE vec load(const bf16 *p, int n = LANES) {
    hvec half = {};
    if (n == LANES) memcpy(&half, p, sizeof half);
    else memcpy(&half, p, n * sizeof(bf16));
    return bits<vec>(__builtin_convertvector(half, ivec) << 16);
}

INLINE void store(float *p, vec v, int n = LANES) {
    if (n == LANES) memcpy(p, &v, sizeof v);
    else memcpy(p, &v, n * sizeof(float));
}

// Rounded to the nearest bfloat16, ties to even.
INLINE void store(bf16 *p, vec v, int n = LANES) {
    ivec word = bits<ivec>(v);
    word = word + 0x7fff + ((word >> 16) & 1);
    const hvec half = __builtin_convertvector((word >> 16) & 0xffff, hvec);
    if (n == LANES) memcpy(p, &half, sizeof half);
    else memcpy(p, &half, n * sizeof(bf16));
}

INLINE float value(float x) { return x; }
INLINE float value(bf16 x) { return bits<float>((uint32_t)x << 16); }

// n entries, `stride` apart.
INLINE vec gather(const float *p, long stride, int n) {
    vec v = {};
    for (int i = 0; i < n; ++i) v[i] = p[i * stride];
    return v;
}

INLINE void scatter(float *p, long stride, vec v, int n) {
    for (int i = 0; i < n; ++i) p[i * stride] = v[i];
}

// The sum of all lanes, in every lane.
INLINE vec total_in_all(vec v) {
    v += __builtin_shuffle(v, ivec{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    v += __builtin_shuffle(v, ivec{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    v += __builtin_shuffle(v, ivec{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    return v + __builtin_shuffle(v, ivec{1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
}

INLINE float total(vec v) { return total_in_all(v)[0]; }

#define EACH(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < (count); ++i)

// Swap the upper half of every run of 2 HALF lanes of a with the lower half of the same run of b. The masks
// are literals: the compiler lowers shuffles before it unrolls loops.
template <int HALF>
INLINE void swap_halves(vec &a, vec &b, ivec low) {
    const vec first = __builtin_shuffle(a, b, low), second = __builtin_shuffle(a, b, low + HALF);
    a = first, b = second;
}

// The sums of 16 vectors: lane k is that of m[k]. Overwrites m.
INLINE vec totals(vec (&m)[LANES]) {
    EACH(i, 8) swap_halves<8>(m[i], m[i + 8], ivec{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}), m[i] += m[i + 8];
    EACH(i, 4) swap_halves<4>(m[i], m[i + 4], ivec{0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27}), m[i] += m[i + 4];
    EACH(i, 2) swap_halves<2>(m[i], m[i + 2], ivec{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29}), m[i] += m[i + 2];
    swap_halves<1>(m[0], m[1], ivec{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30});
    return m[0] + m[1];
}

// The functions of M vectors go through them in step: one polynomial is a chain of dependent
// multiply-adds, and only several at once keep the units busy.

// x = 2^x for x <= 0, relative error 2e-9 before rounding and exact at 0; below 2^-126 it stays there.
template <int M>
INLINE void exp2_negative(vec (&x)[M]) {
    const vec magic = splat(12582912.0f);  // adding it rounds to an integer, kept in the low bits
    vec shifted[M], p[M];
    EACH(i, M) x[i] = larger(x[i], splat(-126.0f));
    EACH(i, M) shifted[i] = x[i] + magic;
    EACH(i, M) x[i] = x[i] - (shifted[i] - magic);
    EACH(i, M) p[i] = splat(1.5353362e-4f) * x[i] + splat(1.3398874e-3f);
    EACH(i, M) p[i] = p[i] * x[i] + splat(9.6184373e-3f);
    EACH(i, M) p[i] = p[i] * x[i] + splat(5.5503324e-2f);
    EACH(i, M) p[i] = p[i] * x[i] + splat(2.4022648e-1f);
    EACH(i, M) p[i] = p[i] * x[i] + splat(6.9314720e-1f);
    EACH(i, M) p[i] = p[i] * x[i] + splat(1.0f);
    EACH(i, M) x[i] = bits<vec>(bits<ivec>(p[i]) + (bits<ivec>(shifted[i]) << 23));
}

// x = log2(1 + 2^x): softplus in units of log 2, for an argument in units of log 2. Relative error 2e-7.
template <int M>
INLINE void softplus2(vec (&x)[M]) {
    vec z[M], p[M];
    EACH(i, M) z[i] = bits<vec>(bits<ivec>(x[i]) | INT32_MIN);  // -|x|
    exp2_negative(z);
    EACH(i, M) p[i] = splat(-1.2319473e-2f) * z[i] + splat(6.3607898e-2f);
    EACH(i, M) p[i] = p[i] * z[i] + splat(-1.5535189e-1f);
    EACH(i, M) p[i] = p[i] * z[i] + splat(2.5600974e-1f);
    EACH(i, M) p[i] = p[i] * z[i] + splat(-3.5339484e-1f);
    EACH(i, M) p[i] = p[i] * z[i] + splat(4.8006370e-1f);
    EACH(i, M) p[i] = p[i] * z[i] + splat(-7.2131009e-1f);
    EACH(i, M) p[i] = p[i] * z[i] + splat(1.4426948f);
    EACH(i, M) x[i] = z[i] * p[i] + larger(x[i], splat(0.0f));
}

INLINE vec exp2_negative(vec x) {
    vec one[1] = {x};
    exp2_negative(one);
    return one[0];
}

INLINE vec softplus2(vec x) {
    vec one[1] = {x};
    softplus2(one);
    return one[0];
}

// Vectors that a thread keeps from call to call, so that a frame allocates nothing. Its content is
// whatever was left there.
class Kept {
public:
    ~Kept() { std::free(data_); }

    vec *take(long count) {
        if (count > capacity_) {
            std::free(data_);
            constexpr long page = 1L << 21;  // huge pages: a column of the image touches one page a row
            const long bytes = (count * (long)sizeof(vec) + page - 1) / page * page;
            data_ = (vec *)std::aligned_alloc(page, bytes);
            capacity_ = data_ ? bytes / (long)sizeof(vec) : 0;
            if (!data_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
            madvise(data_, bytes, MADV_HUGEPAGE);
#endif
        }
        return data_;
    }

private:
    vec *data_ = nullptr;
    long capacity_ = 0;
};

// Call work(task) for every task; returns 0, or 1 when there was no memory for one of them: then the results
// are not whole. An exception that leaves a parallel region would end the process.
template <typename Work>
int each_task(long tasks, int threads, const Work &work) {
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(| : failed)
    for (long task = 0; task < tasks; ++task) {
        try {
            work(task);
        } catch (const std::bad_alloc &) {
            failed = 1;
        }
    }
    return failed;
}
