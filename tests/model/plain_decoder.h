#pragma once

#include <rora/model/causal_lm.h>

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <utility>

namespace rora::testing {

/// A decoder computed once more from its parameters and options in plain ATen operations, one for each step of the
/// formula, with what a token sees found pair by pair.
class PlainDecoder {
 public:
  explicit PlainDecoder(const CausalLM& model) : options_(model->options), parameters_(model->named_parameters()) {}

  /// Keys and values `[prefix, kv_heads, head_dim]` in front of every row of a layer.
  std::map<int64_t, std::pair<at::Tensor, at::Tensor>> prefixes;
  /// Added to what the MLP of a layer gives, of its input.
  std::map<int64_t, std::function<at::Tensor(const at::Tensor&)>> beside_mlp;

  at::Tensor logits(const at::Tensor& embeddings, const at::Tensor& mask) const {
    at::Tensor x = embeddings * options_.embedding_multiplier();
    for (int64_t layer = 0; layer < options_.num_hidden_layers(); ++layer) {
      const std::string name = "model.layers." + std::to_string(layer) + ".";
      const bool before = options_.norm_placement() != NormPlacement::kAfter;
      const bool after = options_.norm_placement() != NormPlacement::kBefore;
      const auto normed = [&](bool here, const at::Tensor& y, const char* which) {
        return here ? norm(y, name + which) : y;
      };
      at::Tensor y = attention(layer, normed(before, x, "input_layernorm"), mask);
      x = x + normed(after, y, "post_attention_layernorm") * options_.residual_multiplier();
      y = mlp(layer, normed(before, x, after ? "pre_feedforward_layernorm" : "post_attention_layernorm"));
      x = x + normed(after, y, "post_feedforward_layernorm") * options_.residual_multiplier();
    }
    const std::string head = options_.tie_word_embeddings() ? "model.embed_tokens" : "lm_head";
    return linear(norm(x, "model.norm"), head) / options_.logits_scaling();
  }

 private:
  at::Tensor parameter(const std::string& name) const {
    return parameters_[name];
  }

  at::Tensor linear(const at::Tensor& x, const std::string& name) const {
    const at::Tensor y = x.matmul(parameter(name + ".weight").t());
    return parameters_.contains(name + ".bias") ? y + parameter(name + ".bias") : y;
  }

  at::Tensor norm(const at::Tensor& x, const std::string& name) const {
    const at::Tensor mean = x.square().mean(-1, /*keepdim=*/true);
    const at::Tensor y = x / (mean + options_.rms_norm_eps()).sqrt() * parameter(name + ".weight");
    return options_.norm_adds_one() ? y + x / (mean + options_.rms_norm_eps()).sqrt() : y;
  }

  /// The place of each token among those of its own sequence.
  static at::Tensor positions(const at::Tensor& mask) {
    at::Tensor places = at::zeros_like(mask);
    for (int64_t row = 0; row < mask.size(0); ++row) {
      std::map<int64_t, int64_t> seen;
      for (int64_t token = 0; token < mask.size(1); ++token) {
        const auto sequence = mask[row][token].item<int64_t>();
        places[row][token].fill_(sequence == 0 ? 0 : seen[sequence]++);
      }
    }
    return places;
  }

  /// bool `[batch, seq, seq]`: whether a token sees another.
  static at::Tensor visible(const at::Tensor& mask, int64_t window) {
    const int64_t seq = mask.size(1);
    const at::Tensor place = positions(mask);
    at::Tensor sees = at::zeros({mask.size(0), seq, seq}, at::kBool);
    for (int64_t row = 0; row < mask.size(0); ++row) {
      for (int64_t query = 0; query < seq; ++query) {
        for (int64_t key = 0; key <= query; ++key) {
          const auto of_key = mask[row][key].item<int64_t>();
          const bool same = of_key > 0 && of_key == mask[row][query].item<int64_t>();
          const auto distance = (place[row][query] - place[row][key]).item<int64_t>();
          sees[row][query][key].fill_(key == query || (same && (window == 0 || distance < window)));
        }
      }
    }
    return sees;
  }

  /// (x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin), x `[batch, heads, seq, head_dim]`.
  at::Tensor turn(int64_t layer, const at::Tensor& x, const at::Tensor& mask) const {
    const bool slides = options_.window(layer) > 0 && options_.sliding_rope();
    const double theta = slides ? options_.sliding_rope()->theta() : options_.rope().theta();
    const int64_t half = x.size(3) / 2;
    const at::Tensor exponent = at::arange(half, x.options()) * 2.0 / static_cast<double>(x.size(3));
    const at::Tensor speed = at::pow(at::Scalar(theta), -exponent);
    const at::Tensor angle = positions(mask).to(x.scalar_type()).unsqueeze(-1) * speed; // [batch, seq, half]
    const at::Tensor cos = angle.cos().unsqueeze(1), sin = angle.sin().unsqueeze(1);
    const at::Tensor first = x.slice(3, 0, half), second = x.slice(3, half);
    return at::cat({first * cos - second * sin, second * cos + first * sin}, 3);
  }

  at::Tensor attention(int64_t layer, const at::Tensor& x, const at::Tensor& mask) const {
    const std::string name = "model.layers." + std::to_string(layer) + ".self_attn.";
    const int64_t head_dim = options_.resolved_head_dim();
    const auto heads = [&](const char* projection, const char* own_norm) {
      at::Tensor y = linear(x, name + projection);
      if (options_.qk_norm_of_all_heads() && own_norm != nullptr) {
        y = norm(y, name + own_norm);
      }
      y = y.view({x.size(0), x.size(1), -1, head_dim});
      if (options_.qk_norm() && !options_.qk_norm_of_all_heads() && own_norm != nullptr) {
        y = norm(y, name + own_norm);
      }
      y = y.transpose(1, 2);
      return options_.rotates(layer) && own_norm != nullptr ? turn(layer, y, mask) : y;
    };
    at::Tensor q = heads("q_proj", "q_norm"), k = heads("k_proj", "k_norm"), v = heads("v_proj", nullptr);
    at::Tensor sees = visible(mask, options_.window(layer));
    if (const auto found = prefixes.find(layer); found != prefixes.end()) {
      const auto in_front = [&](const at::Tensor& prefix, const at::Tensor& own) {
        return at::cat({prefix.transpose(0, 1).unsqueeze(0).expand({x.size(0), -1, -1, -1}), own}, 2);
      };
      k = in_front(found->second.first, k);
      v = in_front(found->second.second, v);
      // Real tokens see it; what padding computes is nobody's.
      const at::Tensor real = (mask > 0).unsqueeze(2).expand({-1, -1, found->second.first.size(0)});
      sees = at::cat({real, sees}, 2);
    }
    const int64_t shared = q.size(1) / k.size(1);
    const double scale = options_.attention_multiplier() > 0.0 ? options_.attention_multiplier()
                                                               : 1.0 / std::sqrt(static_cast<double>(head_dim));
    const at::Tensor scores = q.matmul(k.repeat_interleave(shared, 1).transpose(2, 3)) * scale;
    const at::Tensor weights = scores.masked_fill(sees.logical_not().unsqueeze(1), -1e300).softmax(-1);
    const at::Tensor mixed = weights.matmul(v.repeat_interleave(shared, 1));
    return linear(mixed.transpose(1, 2).flatten(2), name + "o_proj");
  }

  at::Tensor mlp(int64_t layer, const at::Tensor& x) const {
    const std::string name = "model.layers." + std::to_string(layer) + ".mlp.";
    const at::Tensor gate = linear(x, name + "gate_proj");
    const at::Tensor cubic = (gate + gate.pow(3) * 0.044715) * std::sqrt(2.0 / M_PI);
    const at::Tensor open =
        options_.hidden_act() == Activation::kSiLU ? gate * gate.sigmoid() : gate * 0.5 * (cubic.tanh() + 1.0);
    const at::Tensor y = linear(open * linear(x, name + "up_proj"), name + "down_proj");
    const auto found = beside_mlp.find(layer);
    return found == beside_mlp.end() ? y : y + found->second(x);
  }

  DecoderOptions options_;
  torch::OrderedDict<std::string, at::Tensor> parameters_;
};

} // namespace rora::testing
