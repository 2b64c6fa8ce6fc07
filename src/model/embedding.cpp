#include <rora/model/embedding.h>

#include <rora/model/trained_rows.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

namespace rora {

EmbeddingImpl::EmbeddingImpl(int64_t vocab_size, int64_t hidden_size) : ProjectionImpl(hidden_size, vocab_size) {}

at::Tensor EmbeddingImpl::forward(const at::Tensor& input_ids) const {
  if (Adapter* adapter = active_adapter()) {
    const auto* rows = dynamic_cast<const TrainedRows*>(adapter);
    TORCH_CHECK_VALUE(
        rows != nullptr, "the adapter '", active_name(),
        "' of the embedding changes no rows of it: only TrainedRows do");
    return rows->embed(*this, input_ids);
  }
  return at::embedding(weight.defined() ? weight : base().dense(), input_ids);
}

std::shared_ptr<torch::nn::Module> EmbeddingImpl::clone(const std::optional<at::Device>& device) const {
  auto copy = std::make_shared<EmbeddingImpl>(*this);
  static_cast<ProjectionImpl&>(*copy) = *std::static_pointer_cast<ProjectionImpl>(ProjectionImpl::clone(device));
  return copy;
}

void EmbeddingImpl::pretty_print(std::ostream& stream) const {
  stream << "rora::Embedding(num_embeddings=" << out_features() << ", embedding_dim=" << in_features();
  if (!active_name().empty()) {
    stream << ", active_adapter=" << active_name();
  }
  stream << ")";
}

} // namespace rora
