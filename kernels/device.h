#pragma once

// What kernels are written in. Under nvcc it is CUDA; under another compiler the same runs on the host, where tests
// execute whole blocks thread by thread (host/blocks.h).
//
// A kernel is a struct: its members are its parameters, `kThreads` the threads of a block, `geometry()` its grid, and
// the call operator is what each thread does.

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#define RORA_DEVICE __device__ __forceinline__
#define RORA_HOST_OR_DEVICE __host__ __device__ __forceinline__
#define RORA_UNROLL _Pragma("unroll")
#define RORA_NO_UNROLL _Pragma("unroll 1")
#else
#include <cmath>
#include "host/blocks.h"
#define RORA_DEVICE inline
#define RORA_HOST_OR_DEVICE inline
#define RORA_UNROLL
#define RORA_NO_UNROLL
#endif

namespace rora::kernels::cuda {

constexpr int kWarp = 32;

/// The grid of a kernel.
struct Geometry {
  int64_t blocks_x = 1;
  int64_t blocks_y = 1;
  int64_t shared_bytes = 0;
};

RORA_HOST_OR_DEVICE constexpr int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// --- Where a thread is, and how it meets the others ------------------------------------------------------------------

RORA_DEVICE int thread_index() {
#if defined(__CUDACC__)
  return static_cast<int>(threadIdx.x);
#else
  return host::thread_index();
#endif
}
RORA_DEVICE int64_t block_x() {
#if defined(__CUDACC__)
  return blockIdx.x;
#else
  return host::block_x();
#endif
}
RORA_DEVICE int64_t block_y() {
#if defined(__CUDACC__)
  return blockIdx.y;
#else
  return host::block_y();
#endif
}
RORA_DEVICE int lane_index() {
  return thread_index() % kWarp;
}
RORA_DEVICE int warp_index() {
  return thread_index() / kWarp;
}

/// Waits for all threads of the block; what they wrote is seen afterwards.
RORA_DEVICE void sync_block() {
#if defined(__CUDACC__)
  __syncthreads();
#else
  host::sync_block();
#endif
}
/// The same for the warp. As with all that a warp does together, each of its lanes must come here.
RORA_DEVICE void sync_warp() {
#if defined(__CUDACC__)
  __syncwarp();
#else
  host::sync_warp();
#endif
}

/// The block's shared memory, `Geometry::shared_bytes` of it, on a 128-byte boundary; anything may be in it at first.
RORA_DEVICE char* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(128) char memory[];
  return memory;
#else
  return host::shared_memory();
#endif
}

/// `value` of the lane whose index differs from one's own by the bits of `mask`.
RORA_DEVICE float shuffle_xor(float value, int mask) {
#if defined(__CUDACC__)
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
#else
  float all[kWarp];
  host::exchange(&value, all, sizeof(value));
  return all[lane_index() ^ mask];
#endif
}

// --- Numbers ---------------------------------------------------------------------------------------------------------

/// A bfloat16 as it is stored; arithmetic is done in float.
struct BFloat16 {
  uint16_t bits;
};

RORA_HOST_OR_DEVICE float bits_to_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}
RORA_HOST_OR_DEVICE uint32_t float_to_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

RORA_HOST_OR_DEVICE float widen(float x) {
  return x;
}
RORA_HOST_OR_DEVICE float widen(BFloat16 x) {
  return bits_to_float(static_cast<uint32_t>(x.bits) << 16);
}

/// `x` as a T, rounded to the nearest, ties to even; NaN stays NaN.
template <class T>
RORA_HOST_OR_DEVICE T rounded(float x);
template <>
RORA_HOST_OR_DEVICE float rounded<float>(float x) {
  return x;
}
template <>
RORA_HOST_OR_DEVICE BFloat16 rounded<BFloat16>(float x) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  const uint32_t bits = float_to_bits(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
    return {0x7FFF};
  }
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
#endif
}

/// Two numbers as bfloat16 in the order that memory has them, rounded as above by one instruction.
RORA_HOST_OR_DEVICE uint32_t rounded_pair(float first, float second) {
#if defined(__CUDA_ARCH__)
  const __nv_bfloat162_raw pair = __floats2bfloat162_rn(first, second);
  return static_cast<uint32_t>(pair.y) << 16 | pair.x;
#else
  return static_cast<uint32_t>(rounded<BFloat16>(second).bits) << 16 | rounded<BFloat16>(first).bits;
#endif
}

RORA_DEVICE float exponential(float x) {
#if defined(__CUDACC__)
  return expf(x);
#else
  return std::exp(x);
#endif
}
RORA_DEVICE float logarithm(float x) {
#if defined(__CUDACC__)
  return logf(x);
#else
  return std::log(x);
#endif
}
RORA_DEVICE float square_root(float x) {
#if defined(__CUDACC__)
  return sqrtf(x);
#else
  return std::sqrt(x);
#endif
}
RORA_DEVICE float reciprocal_root(float x) {
#if defined(__CUDACC__)
  return rsqrtf(x);
#else
  return 1.0f / std::sqrt(x);
#endif
}
/// 1 / (1 + e^−x), all but a few of a float's last bits of it: a GPU has fast approximations of both parts.
RORA_DEVICE float sigmoid(float x) {
#if defined(__CUDACC__)
  return __fdividef(1.0f, 1.0f + __expf(-x));
#else
  return 1.0f / (1.0f + std::exp(-x));
#endif
}
RORA_DEVICE float larger(float a, float b) {
  return a > b ? a : b;
}

// --- Memory ----------------------------------------------------------------------------------------------------------

/// As many T as one access of 16 bytes moves.
template <class T>
struct alignas(16) Packet {
  static constexpr int kCount = 16 / static_cast<int>(sizeof(T));
  T value[kCount];
};

/// 16 bytes at a 16-byte boundary of the GPU's memory (not of a block's) as one access: nvcc may split an assignment.
template <class To>
RORA_DEVICE To load_16_bytes(const void* from) {
  static_assert(sizeof(To) == 16);
  To to;
#if defined(__CUDACC__)
  const uint4 words = *static_cast<const uint4*>(from);
  memcpy(&to, &words, sizeof(to));
#else
  memcpy(&to, from, sizeof(to));
#endif
  return to;
}
template <class From>
RORA_DEVICE void store_16_bytes(const From& from, void* to) {
  static_assert(sizeof(From) == 16);
#if defined(__CUDACC__)
  uint4 words;
  memcpy(&words, &from, sizeof(words));
  __stwb(static_cast<uint4*>(to), words);
#else
  memcpy(to, &from, sizeof(from));
#endif
}

/// Whether rows of T that begin at `data`, `stride` elements apart, may be read and written by packets.
template <class T>
inline bool fits_packets(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

} // namespace rora::kernels::cuda
