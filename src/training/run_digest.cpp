#include <rora/training/run_digest.h>

#include "../checkpoint/digest.h"

#include <rora/core/linear_weight.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/model/trained_rows.h>

#include <ATen/ATen.h>

namespace rora {
namespace {

using detail::Digest;

void add_tensor(Digest& digest, const std::string& name, const at::Tensor& tensor) {
  digest.add(name);
  digest.add(tensor.sizes().vec());
  const at::Tensor host = tensor.detach().cpu().contiguous();
  digest.add_bytes(host.const_data_ptr(), host.nbytes());
}

} // namespace

std::string weights_digest(const CausalLM& model) {
  Digest digest;
  digest.add(model_config_json(model->options, ""));
  for (const auto& item : model->named_parameters()) {
    const at::Tensor& parameter = item.value();
    if (!parameter.requires_grad()) {
      add_tensor(digest, item.key(), parameter);
    } else {
      digest.add(item.key());
      digest.add(parameter.sizes().vec());
    }
  }
  for (const auto& item : model->named_modules("", /*include_self=*/false)) {
    if (const auto* rows = item.value()->as<TrainedRows>(); rows != nullptr && rows->tokens()) {
      digest.add(*rows->tokens()); // whose rows the trained ones are
    }
    if (const auto* adapter = item.value()->as<LowRankAdapter>(); adapter != nullptr && adapter->options.core()) {
      add_tensor(digest, item.key() + ".lora_A", adapter->lora_A); // between which R is trained
      add_tensor(digest, item.key() + ".lora_B", adapter->lora_B);
    }
    if (const auto* weight = item.value()->as<ops::LinearWeight>()) {
      for (const auto& buffer : weight->named_buffers()) {
        add_tensor(digest, item.key() + "." + buffer.key(), buffer.value());
      }
    }
  }
  return digest.text();
}

std::string examples_digest(const std::vector<Example>& examples) {
  Digest digest;
  for (const Example& example : examples) {
    digest.add(example.input_ids);
    digest.add(example.labels);
  }
  return std::to_string(examples.size()) + " examples of digest " + digest.text();
}

} // namespace rora
