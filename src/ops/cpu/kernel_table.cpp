// Compiled once for each instruction set, under another RORA_CPU_CAPABILITY.

#include "attention.h"
#include "dropout.h"
#include "rows.h"
#if defined(__AVX512BF16__)
#include "product.h"
#endif

namespace rora::kernels::RORA_CPU_CAPABILITY {
namespace {

/// Calls `function<T>` for the parameters' type.
#define RORA_BY_TYPE(name, Parameters)                                   \
  void name##_by_type(const Parameters& p, int64_t begin, int64_t end) { \
    switch (p.type) {                                                    \
      case Type::kFloat:                                                 \
        return name<float>(p, begin, end);                               \
      case Type::kDouble:                                                \
        return name<double>(p, begin, end);                              \
      case Type::kBFloat16:                                              \
        return name<BFloat16>(p, begin, end);                            \
    }                                                                    \
  }

RORA_BY_TYPE(rms_norm, RMSNormParameters)
RORA_BY_TYPE(rms_norm_backward, RMSNormParameters)
RORA_BY_TYPE(swiglu, SwiGLUParameters)
RORA_BY_TYPE(swiglu_backward, SwiGLUParameters)
RORA_BY_TYPE(rotary, RotaryParameters)
RORA_BY_TYPE(attention, AttentionParameters)
RORA_BY_TYPE(attention_backward, AttentionParameters)
RORA_BY_TYPE(cross_entropy, CrossEntropyParameters)
RORA_BY_TYPE(dropout, DropoutParameters)
RORA_BY_TYPE(column_sum, ColumnSumParameters)
#if defined(__AVX512BF16__)
RORA_BY_TYPE(product, ProductParameters)
RORA_BY_TYPE(pack_panels, PackParameters)

int64_t panel_columns_by_type(Type type, int64_t columns) {
  switch (type) {
    case Type::kDouble:
      return panel_columns<double>(columns);
    case Type::kBFloat16:
      return panel_columns<BFloat16>(columns);
    default:
      return panel_columns<float>(columns);
  }
}
#endif

#undef RORA_BY_TYPE

#define RORA_STRING_OF(name) #name
#define RORA_STRING(name) RORA_STRING_OF(name)

} // namespace

extern const Kernels table;
const Kernels table {
  .name = RORA_STRING(RORA_CPU_CAPABILITY), .rms_norm = rms_norm_by_type,
  .rms_norm_backward = rms_norm_backward_by_type, .swiglu = swiglu_by_type, .swiglu_backward = swiglu_backward_by_type,
  .rotary = rotary_by_type, .attention = attention_by_type, .attention_backward = attention_backward_by_type,
  .cross_entropy = cross_entropy_by_type, .dropout = dropout_by_type, .column_sum = column_sum_by_type,
#if defined(__AVX512BF16__)
  .product = product_by_type, .pack_panels = pack_panels_by_type, .panel_columns = panel_columns_by_type,
  .tile_rows = kHasMatrixUnit ? 2 * kUnitSide * 3 : kProductRows<1>,
#endif
};

} // namespace rora::kernels::RORA_CPU_CAPABILITY
