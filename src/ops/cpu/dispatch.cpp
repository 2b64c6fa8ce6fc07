#include "kernels.h"

#include <cstdlib>
#include <cstring>

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

const Kernels* const* all_kernels(int64_t& count) {
  count = available().count;
  return available().tables;
}

} // namespace rora::kernels
