#pragma once

#include "device.h"

// What tensor cores and their copies are made of, as the PTX manual gives it for sm_80 and later. A lane's `group` is
// lane / 4 and its `pair` lane % 4; numbers of bfloat16 travel in twos, the lower one first.

namespace rora::kernels::cuda {

/// Two numbers rounded to bfloat16, `low` in the lower half.
RORA_DEVICE uint32_t pack(float low, float high) {
#if defined(__CUDACC__)
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
#else
  return static_cast<uint32_t>(rounded<BFloat16>(low).bits) | static_cast<uint32_t>(rounded<BFloat16>(high).bits) << 16;
#endif
}

/// C `[16, 8]` += A `[16, 16]`·B `[16, 8]` by a warp, bfloat16 with sums in float. Of A, a lane gives rows group (a[0],
/// a[2]) and group + 8 (a[1], a[3]) at columns 2·pair (a[0], a[1]) and 8 beyond (a[2], a[3]); of B, column group at
/// rows 2·pair (b[0]) and 8 beyond (b[1]). Of C, it holds rows group (c[0], c[1]) and group + 8 (c[2], c[3]) at columns
/// 2·pair and the next.
RORA_DEVICE void multiply_matrices(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  struct Operands {
    uint32_t a[4], b[2];
  };
  Operands own, all[kWarp];
  memcpy(own.a, a, sizeof(own.a));
  memcpy(own.b, b, sizeof(own.b));
  host::exchange(&own, all, sizeof(own));
  const auto half = [](uint32_t two, int which) {
    return widen(BFloat16{static_cast<uint16_t>(which == 0 ? two : two >> 16)});
  };
  const int group = lane_index() / 4, pair = lane_index() % 4;
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * pair + i % 2;
    for (int k = 0; k < 16; ++k) {
      const float of_a = half(all[group * 4 + k % 8 / 2].a[i / 2 + k / 8 * 2], k % 2);
      const float of_b = half(all[column * 4 + k % 8 / 2].b[k / 8], k % 2);
      c[i] += of_a * of_b;
    }
  }
#endif
}

/// Four 8×8 matrices of 16-bit numbers from shared memory: lane 8i + j gives the address of row j of matrix i, on a
/// 16-byte boundary. to[i] is of matrix i: row group, columns 2·pair and the next.
RORA_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  const char* rows[kWarp];
  host::exchange(&row, rows, sizeof(row));
  for (int i = 0; i < 4; ++i) {
    memcpy(&to[i], rows[8 * i + lane_index() / 4] + lane_index() % 4 * 4, 4);
  }
#endif
}

/// The same of the matrices' transposes: to[i] is of matrix i: column group, rows 2·pair and the next.
RORA_DEVICE void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  const char* rows[kWarp];
  host::exchange(&row, rows, sizeof(row));
  for (int i = 0; i < 4; ++i) {
    uint16_t two[2];
    for (int j = 0; j < 2; ++j) {
      memcpy(&two[j], rows[8 * i + lane_index() % 4 * 2 + j] + lane_index() / 4 * 2, 2);
    }
    to[i] = static_cast<uint32_t>(two[0]) | static_cast<uint32_t>(two[1]) << 16;
  }
#endif
}

/// Begins to copy the first `bytes` of 16 from global to shared memory, both on a 16-byte boundary; the rest becomes 0.
/// It is there, for this thread, after `wait_for_copies`.
RORA_DEVICE void copy_later(void* to_shared, const void* from, int bytes) {
#if defined(__CUDACC__)
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to_shared))),
      "l"(from), "r"(bytes)
      : "memory");
#else
  host::copy_later(to_shared, from, bytes);
#endif
}

/// Begins to bring what lies at `from` in the GPU's memory into its cache.
RORA_DEVICE void prefetch(const void* from) {
#if defined(__CUDACC__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#else
  static_cast<void>(from);
#endif
}

/// Makes one group of the copies that this thread has begun since the last one; it may be empty.
RORA_DEVICE void commit_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  host::commit_copies();
#endif
}

/// Waits for this thread's groups but the `Pending` last.
template <int Pending>
RORA_DEVICE void wait_for_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#else
  host::wait_for_copies(Pending);
#endif
}

} // namespace rora::kernels::cuda
