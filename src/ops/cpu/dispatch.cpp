#include "kernels.h"

#include <cstdlib>
#include <cstring>
#if defined(RORA_X86_KERNELS)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
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
namespace amx {
extern const Kernels table;
}
namespace amx_emulated {
extern const Kernels table;
}
#endif

namespace {

#if defined(RORA_X86_KERNELS)
/// Whether the processor multiplies bfloat16 on a matrix unit.
bool has_matrix_unit() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kAmxTiles = 1u << 24, kAmxBFloat16 = 1u << 22;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAmxTiles) != 0 && (d & kAmxBFloat16) != 0;
}

/// Asks Linux for the tiles, which threads do not have by themselves.
bool may_use_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

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
#if defined(RORA_X86_KERNELS)
    // Only for who asks for them: no such processor has run them yet, and whether they beat oneDNN is not known.
    if (tables[0] == &avx512::table) {
      if (has_matrix_unit() && may_use_tiles()) {
        tables[count++] = &amx::table;
      }
      tables[count++] = &amx_emulated::table;
    }
#endif
  }
  const Kernels* tables[5] = {};
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
#if defined(RORA_X86_KERNELS)
  const bool has_own = &kernels() == &amx::table || &kernels() == &amx_emulated::table;
  static const bool gives_away = has_matrix_unit() && !has_own;
#else
  static const bool gives_away = false;
#endif
  return kernels().product != nullptr && !(type == Type::kBFloat16 && gives_away);
}

const Kernels* const* all_kernels(int64_t& count) {
  count = available().count;
  return available().tables;
}

} // namespace rora::kernels
