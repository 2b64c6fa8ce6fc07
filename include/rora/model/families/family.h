#pragma once

#include <rora/checkpoint/json_object.h>
#include <rora/model/causal_lm.h>
#include <rora/model/decoder_options.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rora {

class ModelFolder;

/// A family of models: how its config.json and the names of its tensors say what this library computes. `load_model`,
/// `save_model` and `read_model_config` choose one by `model_type`. Those of the library are listed in
/// src/model/families/families.cpp; a program adds its own by `register_model_family`.
class ModelFamily {
 public:
  virtual ~ModelFamily() = default;

  /// The `model_type` of config.json that means this family.
  virtual std::string model_type() const = 0;

  /// transformers' class of its causal language models, as config.json's `architectures` names it.
  virtual std::string architecture() const = 0;

  /// What fields mean that config.json leaves out: the defaults of transformers' class of the family's configs, as far
  /// as they differ from family to family (heads of keys and values, head_dim, positions, epsilon, tied head, rotary
  /// base and special tokens). LLaMA's, where they are not overridden.
  virtual DecoderOptions absent_fields() const;

  /// The options that config.json asks for. Throws `FormatError` naming the field (`JsonObject::fail`), also for what
  /// the field asks for and this library lacks: nothing that changes an answer is passed over.
  virtual DecoderOptions read_config(const JsonObject& config) const = 0;

  /// The config.json that `read_config` and transformers read back. `save_model` reads it once more and refuses a model
  /// whose options it does not give again.
  virtual JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const = 0;

  /// Parts of parameters' names, whole between dots, that its folders spell another way: {"model.layers",
  /// "transformer.h"}. A name is gone through from left to right, and the first pair that fits at a place replaces what
  /// stands there. Empty: all names are alike.
  virtual std::vector<std::pair<std::string, std::string>> renamed_parts() const {
    return {};
  }

  /// `options`, corrected by what the folder's tensors show. By default, for a model that is a `DecoderForCausalLM`:
  /// widths of layers that differ, biases and the tied head; with `infer_widths` also those of layers that are alike.
  /// Throws `FormatError` where tensors contradict config.json.
  virtual DecoderOptions fit_to_tensors(
      const DecoderOptions& options, const ModelFolder& folder, bool infer_widths) const;

  /// A model of these options, its weights uninitialised. By default a `DecoderForCausalLM`.
  virtual CausalLM make(const DecoderOptions& options) const;

  /// What a folder calls the parameter of that name, and the other way round, by `renamed_parts`.
  std::string stored_name(const std::string& parameter) const;
  std::string parameter_name(const std::string& key) const;
};

/// Adds a family, to be found by its `model_type`. Throws `c10::ValueError` for a type that is there already.
void register_model_family(std::shared_ptr<const ModelFamily> family);

/// The family of that type. Throws `c10::ValueError` listing those that there are.
const ModelFamily& family_of(const std::string& model_type);

/// The fields that LLaMA's config.json shares with most that came after it: sizes, activation, norms, biases, tied
/// head, rotary embedding and special tokens; those that are left out are the family's `absent_fields`. `model_type`
/// becomes that of `config`. Throws `FormatError` as `read_config` does: also for quantised weights, dropout of
/// attention, tokens that see those after them, fields of single layers and rotary positions of a part of a head.
DecoderOptions read_shared_config(const ModelFamily& family, const JsonObject& config);

/// Those fields of `family`, in the order of transformers' own, and the names of what else the options ask for (a
/// window, layers without rotary positions, multipliers), where they ask for it. A bias of some projections of a
/// block alone is left to the family.
JsonFields write_shared_config(
    const ModelFamily& family, const DecoderOptions& options, const std::string& torch_dtype);

} // namespace rora
