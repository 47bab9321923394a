// SPDX-License-Identifier: Apache-2.0
// Layer normalization of short rows, rounded to the type of the layer that follows: library kernels spend
// their time on setting up each row, of which an image has as many as pixels.

#include "vectors.h"

namespace {

constexpr int ROWS = 4;  // in step, to hide the sums across a vector

// N rows of NV vectors, the last of which has `last` channels; inside is 1 in those lanes of it.
template <int NV, int N, typename From, typename To>
INLINE void normalize_rows(const From *x, const vec *weight, const vec *bias, float epsilon, To *y, int channels,
                           int last, vec inside) {
    vec v[N * NV], mean[N] = {}, scale[N] = {};
    const float share = 1.0f / channels;
    EACH(i, N * NV) v[i] = load(x + i / NV * channels + i % NV * LANES, i % NV == NV - 1 ? last : LANES);
    EACH(i, N * NV) mean[i / NV] += v[i];
    EACH(r, N) mean[r] = total_in_all(mean[r]) * splat(share);
    EACH(i, N * NV) v[i] -= i % NV == NV - 1 ? mean[i / NV] * inside : mean[i / NV];
    EACH(i, N * NV) scale[i / NV] += v[i] * v[i];
    EACH(r, N) {
        scale[r] = total_in_all(scale[r]) * splat(share) + splat(epsilon);
        scale[r] = splat(1.0f / __builtin_sqrtf(scale[r][0]));
    }
    EACH(i, N * NV) store(y + i / NV * channels + i % NV * LANES, v[i] * scale[i / NV] * weight[i % NV] + bias[i % NV],
                          i % NV == NV - 1 ? last : LANES);
}

template <int NV, typename From, typename To>
INLINE void normalize(const From *x, const float *weight, const float *bias, float epsilon, To *y, long rows, int channels) {
    const int last = channels - (NV - 1) * LANES;
    vec w[NV], b[NV], inside = {};
    for (int i = 0; i < last; ++i) inside[i] = 1;
    EACH(i, NV) w[i] = load(weight + i * LANES, i == NV - 1 ? last : LANES);
    EACH(i, NV) b[i] = load(bias + i * LANES, i == NV - 1 ? last : LANES);
    long row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        normalize_rows<NV, ROWS>(x + row * channels, w, b, epsilon, y + row * channels, channels, last, inside);
    for (; row < rows; ++row)
        normalize_rows<NV, 1>(x + row * channels, w, b, epsilon, y + row * channels, channels, last, inside);
}

template <typename From, typename To>
INLINE void any_width(const From *x, const float *weight, const float *bias, float epsilon, To *y, long rows, int channels) {
    const int vectors = (channels + LANES - 1) / LANES;
    if (vectors == 1) normalize<1>(x, weight, bias, epsilon, y, rows, channels);
    else if (vectors == 2) normalize<2>(x, weight, bias, epsilon, y, rows, channels);
    else if (vectors == 3) normalize<3>(x, weight, bias, epsilon, y, rows, channels);
    else if (vectors == 4) normalize<4>(x, weight, bias, epsilon, y, rows, channels);
    else if (vectors == 8) normalize<8>(x, weight, bias, epsilon, y, rows, channels);
}

template <typename From, typename To>
void run(const void *x, const float *weight, const float *bias, float epsilon, void *y, long rows, int channels, int threads) {
    const long share = (rows + threads - 1) / threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; ++t) {
        const long first = t * share, count = std::min(share, rows - first);
        if (count > 0) any_width((const From *)x + first * channels, weight, bias, epsilon, (To *)y + first * channels, count, channels);
    }
}

}  // namespace

extern "C" {

// x and y: rows x channels, of 1, 2, 3, 4 or 8 vectors.
void diffmf_layer_norm_float32_float32(const void *x, const float *weight, const float *bias, float epsilon, void *y,
                                       long rows, int channels, int threads) {
    run<float, float>(x, weight, bias, epsilon, y, rows, channels, threads);
}

void diffmf_layer_norm_float32_bfloat16(const void *x, const float *weight, const float *bias, float epsilon, void *y,
                                        long rows, int channels, int threads) {
    run<float, bf16>(x, weight, bias, epsilon, y, rows, channels, threads);
}

void diffmf_layer_norm_bfloat16_bfloat16(const void *x, const float *weight, const float *bias, float epsilon, void *y,
                                         long rows, int channels, int threads) {
    run<bf16, bf16>(x, weight, bias, epsilon, y, rows, channels, threads);
}

}  // extern "C"
