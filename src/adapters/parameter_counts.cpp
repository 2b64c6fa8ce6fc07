#include "attachment.h"
#include "attention_attachment.h"
#include "rows_attachment.h"

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/attach.h>
#include <rora/model/causal_lm.h>
#include <rora/model/families/family.h>

#include <ATen/ATen.h>

#include <functional>
#include <numeric>
#include <set>

namespace rora {
namespace {

int64_t numbers(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

} // namespace

ParameterCounts count_parameters(const torch::nn::Module& model) {
  ParameterCounts counts;
  std::set<const void*> counted; // an untied head shares the embedding's memory
  for (const at::Tensor& parameter : model.parameters()) {
    const void* at = parameter.const_data_ptr();
    const bool shared = at != nullptr && !counted.insert(at).second;
    counts.total += shared ? 0 : parameter.numel();
    counts.trainable += parameter.requires_grad() ? parameter.numel() : 0;
  }
  return counts;
}

ParameterCounts count_parameters(const DecoderOptions& model, const AdapterOptions& adapters) {
  // Weights are not initialised: the system gives their pages only where one is written to.
  const CausalLM made = family_of(model.model_type()).make(model);
  ParameterCounts counts = count_parameters(*made);
  counts.trainable = 0;
  const auto add = [&](const std::vector<AdapterTensor>& tensors) {
    for (const AdapterTensor& tensor : tensors) {
      counts.trainable += numbers(tensor.shape);
    }
  };
  if (const auto of_attentions = detail::attention_kind(adapters)) {
    add(of_attentions->stored(detail::plan_attentions(*made, adapters)));
  } else {
    const auto kind = adapters.resolved_kind();
    for (const detail::Attachment& each : detail::plan_attachments(*made, adapters)) {
      add(kind->tensors(each.module, *each.projection));
    }
    for (const detail::RowsAttachment& each : detail::plan_rows(*made, adapters)) {
      counts.trainable += numbers(each.shape());
    }
  }
  counts.total += counts.trainable;
  return counts;
}

} // namespace rora
