#include <rora/model/trained_rows.h>

#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <set>

namespace rora {

TrainedRows::TrainedRows(const ProjectionImpl& projection, const std::optional<std::vector<int64_t>>& tokens) {
  at::NoGradGuard no_grad;
  const at::Tensor base = projection.original_weight().detach();
  if (!tokens) {
    const at::Tensor rows = base.to(wide(base.scalar_type()), /*non_blocking=*/false, /*copy=*/true);
    weight = register_parameter("weight", rows);
    return;
  }
  validate(*tokens, base.size(0));
  token_indices = register_buffer("token_indices", at::tensor(*tokens, at::kLong).to(base.device()));
  const at::Tensor rows = base.index_select(0, token_indices).to(wide(base.scalar_type()));
  trainable_tokens_delta = register_parameter("trainable_tokens_delta", rows);
}

void TrainedRows::validate(const std::vector<int64_t>& tokens, int64_t vocab_size) {
  TORCH_CHECK_VALUE(!tokens.empty(), "names no token");
  std::set<int64_t> seen;
  for (const int64_t token : tokens) {
    TORCH_CHECK_VALUE(
        token >= 0 && token < vocab_size, "there is no token ", token, ": the vocabulary has ", vocab_size);
    TORCH_CHECK_VALUE(seen.insert(token).second, "token ", token, " is named twice");
  }
}

at::Tensor TrainedRows::embed(const ProjectionImpl& projection, const at::Tensor& input_ids) const {
  const at::Tensor base = projection.base().dense();
  // Looked up before they are rounded: the gradients of a row's many places then add up in fp32.
  if (weight.defined()) {
    return at::embedding(weight, input_ids).to(base.scalar_type());
  }
  const at::Tensor matches = input_ids.unsqueeze(-1) == token_indices;
  const at::Tensor trained = at::embedding(trainable_tokens_delta, matches.to(at::kByte).argmax(-1));
  return at::where(matches.any(-1, /*keepdim=*/true), trained.to(base.scalar_type()), at::embedding(base, input_ids));
}

at::Tensor TrainedRows::weight_of(const ProjectionImpl& projection) const {
  const at::Tensor base = projection.base().dense();
  return weight.defined() ? weight.to(base.scalar_type())
                          : base.index_copy(0, token_indices, trainable_tokens_delta.to(base.scalar_type()));
}

at::Tensor TrainedRows::forward(const ProjectionImpl& projection, const at::Tensor& x) {
  if (weight.defined()) {
    return at::linear(x, weight.to(x.scalar_type()), projection.bias);
  }
  const at::Tensor bias = projection.bias.defined() ? projection.bias.index_select(0, token_indices) : at::Tensor();
  const at::Tensor trained = at::linear(x, trainable_tokens_delta.to(x.scalar_type()), bias);
  return projection.forward_frozen(x).index_copy(-1, token_indices, trained);
}

bool TrainedRows::can_merge() const {
  return true;
}

at::Tensor TrainedRows::merged_weight(const ProjectionImpl& projection) const {
  at::NoGradGuard no_grad;
  const at::Tensor merged = weight_of(projection);
  return weight.defined() && merged.is_same(weight) ? merged.clone() : merged;
}

std::shared_ptr<Adapter> TrainedRows::empty_copy() const {
  const std::shared_ptr<TrainedRows> copy(new TrainedRows());
  if (weight.defined()) {
    copy->weight = copy->register_parameter("weight", at::empty({0}, weight.options()));
  } else {
    copy->trainable_tokens_delta =
        copy->register_parameter("trainable_tokens_delta", at::empty({0}, trainable_tokens_delta.options()));
    copy->token_indices = copy->register_buffer("token_indices", at::empty({0}, token_indices.options()));
  }
  return copy;
}

void TrainedRows::to(at::Device device, at::ScalarType dtype, bool non_blocking) {
  const at::Tensor indices = token_indices.defined() ? token_indices.detach() : at::Tensor();
  Adapter::to(device, dtype, non_blocking);
  if (indices.defined()) {
    token_indices.set_data(indices.to(device));
  }
}

void TrainedRows::to(at::ScalarType dtype, bool non_blocking) {
  to(parameters().front().device(), dtype, non_blocking);
}

void TrainedRows::pretty_print(std::ostream& stream) const {
  stream << "rora::TrainedRows(";
  if (weight.defined()) {
    stream << "all)";
  } else {
    stream << token_indices.numel() << " tokens)";
  }
}

std::optional<std::vector<int64_t>> TrainedRows::tokens() const {
  if (weight.defined()) {
    return std::nullopt;
  }
  const at::Tensor indices = token_indices.cpu().contiguous();
  return std::vector<int64_t>(indices.const_data_ptr<int64_t>(), indices.const_data_ptr<int64_t>() + indices.numel());
}

} // namespace rora
