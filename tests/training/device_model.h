#pragma once

#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/model/weights_with_room.h>

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

// Small models of every form that a step on a device has.
namespace rora::testing::device_model {

/// How a model differs from a tiny LLaMA with adapters of rank 4.
struct Form {
  std::string name;
  DecoderOptions model = tiny_llama_options();
  LowRankOptions adapter = LowRankOptions().rank(4).alpha(8);
  std::vector<std::vector<int64_t>> rows{{0}, {1}, {2}};
  at::ScalarType dtype = at::kFloat;
  bool head = false;
  Checkpointing checkpointing = Checkpointing::kNone;
  bool pretraining = false;
  bool room = false; ///< beside and below the weights, for A and B
};

inline std::vector<Form> forms() {
  std::vector<Form> forms;
  const auto add = [&](const char* name, const std::function<void(Form&)>& change) {
    forms.emplace_back();
    forms.back().name = name;
    change(forms.back());
  };
  add("padded", [](Form&) {});
  add("one_sequence_a_row", [](Form& form) { form.rows = {{2}}; });
  add("packed", [](Form& form) { form.rows = {{0, 1, 2}, {3, 4}}; });
  add("bfloat16", [](Form& form) { form.dtype = at::kBFloat16; });
  add("dora", [](Form& form) { form.adapter.dora(true); });
  add("float16", [](Form& form) { // by LibTorch's operations alone
    form.dtype = at::kHalf;
    form.adapter.dora(true).dropout(0.1);
  });
  add("dora_in_bfloat16", [](Form& form) {
    form.dtype = at::kBFloat16;
    form.adapter.dora(true);
  });
  add("dora_with_biases", [](Form& form) {
    form.adapter.dora(true);
    form.model.attention_bias(true).mlp_bias(true);
  });
  add("dropout", [](Form& form) { form.adapter.dropout(0.1); });
  add("dora_with_dropout", [](Form& form) { form.adapter.dora(true).dropout(0.1); });
  add("dora_with_low_rank_dropout",
      [](Form& form) { form.adapter.dora(true).dropout(0.1).dora_dropout(ops::DoraDropout::kLowRank); });
  add("activation_checkpointing", [](Form& form) {
    form.checkpointing = Checkpointing::kFull;
    form.adapter.dropout(0.1);
  });
  add("selective_checkpointing", [](Form& form) {
    form.checkpointing = Checkpointing::kSelective;
    form.dtype = at::kBFloat16;
    form.adapter.dora(true);
  });
  add("with_room", [](Form& form) {
    form.room = true;
    form.dtype = at::kBFloat16;
  });
  add("dora_with_room", [](Form& form) {
    form.room = true;
    form.dtype = at::kBFloat16;
    form.adapter.dora(true);
  });
  add("selective_checkpointing_with_room", [](Form& form) {
    form.room = true;
    form.dtype = at::kBFloat16;
    form.checkpointing = Checkpointing::kSelective;
  });
  add("adapted_head", [](Form& form) { form.head = true; });
  add("dynamic_positions", [](Form& form) {
    form.model.max_position_embeddings(4).rope(RopeOptions().scaling(RopeScaling::kDynamic).factor(2.0));
  });
  add("pretraining", [](Form& form) { form.pretraining = true; });
  add("pretraining_in_bfloat16", [](Form& form) {
    form.pretraining = true;
    form.dtype = at::kBFloat16;
  });
  return forms;
}

/// The tensors of a model, where its modules read them.
inline std::vector<at::Tensor*> tensors(CausalLM model) {
  std::vector<at::Tensor*> tensors;
  for (const auto& module : model->modules()) {
    if (auto* projection = module->as<ProjectionImpl>()) {
      tensors.push_back(&projection->weight);
    } else if (auto* norm = module->as<RMSNormImpl>()) {
      tensors.push_back(&norm->weight);
    }
  }
  return tensors;
}

/// Puts a model on Meta. `Module::to` cannot: it keeps tensors, whose kind would change.
inline void put_on_meta(DecoderForCausalLM model) {
  const auto replace = [](torch::nn::Module& parent, const char* name, Projection& projection) {
    const auto on_meta = [](const at::Tensor& x) { return x.defined() ? x.to(at::kMeta) : x; };
    projection = parent.replace_module(name, Projection(on_meta(projection->weight), on_meta(projection->bias)));
  };
  for (const auto& module : model->modules()) {
    if (auto* attention = module->as<AttentionImpl>()) {
      replace(*attention, "q_proj", attention->q_proj);
      replace(*attention, "k_proj", attention->k_proj);
      replace(*attention, "v_proj", attention->v_proj);
      replace(*attention, "o_proj", attention->o_proj);
    } else if (auto* mlp = module->as<MLPImpl>()) {
      replace(*mlp, "gate_proj", mlp->gate_proj);
      replace(*mlp, "up_proj", mlp->up_proj);
      replace(*mlp, "down_proj", mlp->down_proj);
    }
  }
  replace(*model, "lm_head", model->lm_head);
  for (at::Tensor* each : tensors(model)) {
    *each = each->to(at::kMeta);
  }
}

/// The model on `device`, which computes nothing there if that is Meta.
inline DecoderForCausalLM make(const Form& form, at::Device device) {
  DecoderForCausalLM model = tiny_llama(form.model);
  model->to(form.dtype);
  if (device.is_meta()) {
    put_on_meta(model);
  } else {
    model->to(device);
  }
  if (form.pretraining) {
    for (at::Tensor* each : tensors(model)) {
      each->set_requires_grad(true);
    }
  } else {
    auto targets = std::vector<std::string>{"q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
    if (form.room) {
      leave_room_beside_weights(model, form.adapter.rank());
      targets.emplace_back("k_proj");
    }
    if (form.head) {
      targets.emplace_back("lm_head");
    }
    attach_adapters(*model, AdapterOptions().low_rank(form.adapter).target_modules(targets));
  }
  model->checkpointing = form.checkpointing;
  model->train();
  return model;
}

/// By name: what is on Meta is no longer what the modules have registered.
inline std::vector<std::pair<std::string, at::Tensor>> trained(CausalLM model, const Form& form) {
  std::vector<std::pair<std::string, at::Tensor>> trained;
  if (!form.pretraining) {
    return named_adapter_parameters(*model);
  }
  for (const at::Tensor* each : tensors(model)) {
    trained.emplace_back(std::to_string(trained.size()), *each);
  }
  return trained;
}

} // namespace rora::testing::device_model
