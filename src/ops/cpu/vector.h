#pragma once

// Vectors of one processor register, written with GCC's and Clang's vector extension: the same source serves every
// instruction set it is compiled for. RORA_CPU_CAPABILITY names the namespace, so that no two of them share a symbol;
// for the same reason nothing here, nor in the kernels, calls an inline function of another library.

#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define RORA_INLINE inline __attribute__((always_inline))

namespace rora::kernels::RORA_CPU_CAPABILITY {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

/// The upper half of an IEEE single.
struct BFloat16 {
  uint16_t bits;
};

/// What elements of type T are computed in.
template <class T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
template <class T>
using wide_t = typename Wide<T>::type;

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
/// A register of numbers of type T, float or double.
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

constexpr int64_t kFloatLanes = kLanes<float>;
typedef uint16_t HalfWords __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));

RORA_INLINE float widen(float x) {
  return x;
}
RORA_INLINE double widen(double x) {
  return x;
}
RORA_INLINE float widen(BFloat16 x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16);
}

/// One number rounded to T; NaN stays NaN.
template <class T>
RORA_INLINE T rounded(wide_t<T> x) {
  if constexpr (sizeof(T) == sizeof(wide_t<T>)) {
    return x;
  } else {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    if (x != x) {
      return {0x7fc0u};
    }
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
}

template <class W>
RORA_INLINE Vector<W> broadcast(W x) {
  return x - Vector<W>{};
}

/// kLanes elements from `p`, of any alignment.
RORA_INLINE Vector<float> load(const float* p) {
  Vector<float> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
RORA_INLINE Vector<double> load(const double* p) {
  Vector<double> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
RORA_INLINE Vector<float> load(const BFloat16* p) {
  HalfWords half;
  __builtin_memcpy(&half, p, sizeof(half));
  return __builtin_bit_cast(Vector<float>, __builtin_convertvector(half, Words) << 16);
}

/// Rounded to the nearest, ties to even; NaN stays NaN.
RORA_INLINE HalfWords round_to_bfloat16(Vector<float> v) {
#if defined(__AVX512BF16__)
  return __builtin_bit_cast(HalfWords, _mm512_cvtneps_pbh(__builtin_bit_cast(__m512, v)));
#else
  const Words bits = __builtin_bit_cast(Words, v);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words quiet = Words{} + 0x7fc0u;
  return __builtin_convertvector(v == v ? rounded : quiet, HalfWords);
#endif
}

RORA_INLINE void store(float* p, Vector<float> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}
RORA_INLINE void store(double* p, Vector<double> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}
RORA_INLINE void store(BFloat16* p, Vector<float> v) {
  const HalfWords half = round_to_bfloat16(v);
  __builtin_memcpy(p, &half, sizeof(half));
}

/// The first `count` lanes; the others are zero.
template <class T>
RORA_INLINE Vector<wide_t<T>> load(const T* p, int64_t count) {
  if (count == kLanes<wide_t<T>>) {
    return load(p);
  }
  T buffer[kLanes<wide_t<T>>] = {};
  __builtin_memcpy(buffer, p, static_cast<size_t>(count) * sizeof(T));
  return load(static_cast<const T*>(buffer));
}
template <class T>
RORA_INLINE void store(T* p, Vector<wide_t<T>> v, int64_t count) {
  if (count == kLanes<wide_t<T>>) {
    store(p, v);
    return;
  }
  T buffer[kLanes<wide_t<T>>];
  store(static_cast<T*>(buffer), v);
  __builtin_memcpy(p, buffer, static_cast<size_t>(count) * sizeof(T));
}

/// As a store in T and a load would leave it.
template <class T>
RORA_INLINE Vector<wide_t<T>> round_to(Vector<wide_t<T>> v) {
  if constexpr (sizeof(T) == sizeof(wide_t<T>)) {
    return v;
  } else {
    return __builtin_bit_cast(Vector<float>, __builtin_convertvector(round_to_bfloat16(v), Words) << 16);
  }
}

/// Calls f(place, count) for each register's worth of `n` elements; only the last count may be less than a register.
template <class W, class F>
RORA_INLINE void for_registers(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes<W> <= n; i += kLanes<W>) {
    f(i, kLanes<W>);
  }
  if (i < n) {
    f(i, n - i);
  }
}

/// The sum of the lanes, in a fixed order.
template <class W>
RORA_INLINE W sum_lanes(Vector<W> v) {
  W sum = 0;
  for (int64_t i = 0; i < kLanes<W>; ++i) {
    sum += v[i];
  }
  return sum;
}
template <class W>
RORA_INLINE W max_lanes(Vector<W> v) {
  W most = v[0];
  for (int64_t i = 1; i < kLanes<W>; ++i) {
    most = v[i] > most ? v[i] : most;
  }
  return most;
}

/// eˣ to 2e-7 of itself: 2ⁿ·eʳ with |r| ≤ ln 2 / 2, eʳ by a polynomial (coefficients of the Cephes library's expf). 0
/// where that would be a denormal number.
RORA_INLINE Vector<float> exponential(Vector<float> x) {
  constexpr float kLog2OfE = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kLeast = -87.33654f; // below: 0
  constexpr float kMost = 88.72283f; // above: infinity
  constexpr float kRound = 12582912.0f; // 1.5·2²³: adding it rounds to an integer
#if defined(__AVX512F__)
  const __m512 least = _mm512_set1_ps(kLeast);
  const __mmask16 nonzero = _mm512_cmp_ps_mask((__m512)x, least, _CMP_NLT_UQ); // NaN too
  const Vector<float> bounded =
      (Vector<float>)_mm512_maskz_min_ps(nonzero, _mm512_set1_ps(kMost + 1.0f), (__m512)x); // or NaN
#else
  const Vector<float> low = broadcast(kLeast), high = broadcast(kMost);
  Vector<float> bounded = x > low ? x : low; // NaN too, which has no integer part
  bounded = bounded > high ? high : bounded;
#endif
  const Vector<float> shifted = bounded * kLog2OfE + kRound;
  const Vector<float> n = shifted - kRound;
  const Vector<float> r = (bounded - n * kLn2High) - n * kLn2Low;
  Vector<float> p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_maskz_scalef_ps(nonzero, (__m512)p, (__m512)n);
#else
  // Halved once, as 2¹²⁸ has no float.
  const Integers exponent = __builtin_convertvector(n, Integers) - 1;
  const Vector<float> power = __builtin_bit_cast(Vector<float>, (exponent + 127) << 23);
  Vector<float> result = (p * power) * 2.0f;
  result = x < low ? broadcast(0.0f) : result;
  result = x > high ? broadcast(__builtin_inff()) : result;
  return x == x ? result : x;
#endif
}
RORA_INLINE Vector<double> exponential(Vector<double> x) {
  Vector<double> result;
  for (int64_t i = 0; i < kLanes<double>; ++i) {
    result[i] = __builtin_exp(x[i]);
  }
  return result;
}

RORA_INLINE float square_root(float x) {
  return __builtin_sqrtf(x);
}
RORA_INLINE double square_root(double x) {
  return __builtin_sqrt(x);
}
RORA_INLINE float logarithm(float x) {
  return __builtin_logf(x);
}
RORA_INLINE double logarithm(double x) {
  return __builtin_log(x);
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
