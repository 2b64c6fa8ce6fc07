#include "kernels.h"

#include <cstdlib>
#include <cstring>
#if defined(RORA_X86_KERNELS)
#include <cpuid.h>
#endif

namespace rora::kernels {

namespace baseline {
extern const Kernels table;
}
#if defined(RORA_X86_KERNELS)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

struct Available {
  Available() {
#if defined(RORA_X86_KERNELS)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16")) {
      tables[count++] = &avx512::table;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      tables[count++] = &avx2::table;
    }
#endif
    tables[count++] = &baseline::table;
  }
  const Kernels* tables[3] = {};
  int64_t count = 0;
};

const Available& available() {
  static const Available instance;
  return instance;
}

const Kernels& chosen() {
  const char* asked = std::getenv("RORA_CPU_CAPABILITY");
  for (int64_t i = 0; asked != nullptr && i < available().count; ++i) {
    if (std::strcmp(available().tables[i]->name, asked) == 0) {
      return *available().tables[i];
    }
  }
  return *available().tables[0];
}

} // namespace

const Kernels& kernels() {
  static const Kernels& instance = chosen();
  return instance;
}

bool leads_products(Type type) {
  static const bool has_matrix_units = [] {
#if defined(RORA_X86_KERNELS)
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kAmxBFloat16 = 1u << 22;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAmxBFloat16) != 0;
#else
    return false;
#endif
  }();
  return kernels().product != nullptr && !(type == Type::kBFloat16 && has_matrix_units);
}

const Kernels* const* all_kernels(int64_t& count) {
  count = available().count;
  return available().tables;
}

} // namespace rora::kernels
