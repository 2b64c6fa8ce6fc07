#include "families.h"

#include "llama.h"

#include <rora/model/decoder.h>

#include <c10/util/Exception.h>

#include <map>
#include <mutex>

namespace rora {
namespace {

/// The families by `model_type`: those of the library, and what programs add.
class Families {
 public:
  Families() {
    add(detail::llama_family());
  }

  void add(std::shared_ptr<const ModelFamily> family) {
    const std::string type = family->model_type();
    const std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK_VALUE(
        families_.emplace(type, std::move(family)).second, "a family of the model_type '", type, "' is there already");
  }

  const ModelFamily* find(const std::string& model_type) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = families_.find(model_type);
    return found == families_.end() ? nullptr : found->second.get();
  }

  /// "llama is", "gemma and llama are".
  std::string supported() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::string text;
    size_t left = families_.size();
    for (const auto& [type, family] : families_) {
      text += type + (--left > 1 ? ", " : left == 1 ? " and " : "");
    }
    return text + (families_.size() == 1 ? " is" : " are");
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const ModelFamily>> families_; // of which none is ever taken out
};

Families& families() {
  static Families all;
  return all;
}

/// Puts `to` in the place of `from` where that first stands whole between dots.
void replace_part(std::string& name, const std::string& from, const std::string& to) {
  const std::string dotted = "." + name + ".";
  const size_t place = dotted.find("." + from + ".");
  if (place != std::string::npos) {
    name.replace(place, from.size(), to);
  }
}

} // namespace

namespace detail {

std::string unsupported_model_type(const std::string& model_type) {
  return "'" + model_type + "' is not supported (" + families().supported() + ")";
}

const ModelFamily* find_family(const std::string& model_type) {
  return families().find(model_type);
}

} // namespace detail

CausalLM ModelFamily::make(const DecoderOptions& options) const {
  return DecoderForCausalLM(options);
}

std::string ModelFamily::checkpoint_name(std::string parameter) const {
  for (const auto& [own, stored] : renamed_parts()) {
    replace_part(parameter, own, stored);
  }
  return parameter;
}

std::string ModelFamily::parameter_name(std::string key) const {
  const auto parts = renamed_parts();
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    replace_part(key, part->second, part->first);
  }
  return key;
}

void register_model_family(std::shared_ptr<const ModelFamily> family) {
  families().add(std::move(family));
}

const ModelFamily& family_of(const std::string& model_type) {
  const ModelFamily* family = detail::find_family(model_type);
  TORCH_CHECK_VALUE(family != nullptr, "model_type ", detail::unsupported_model_type(model_type));
  return *family;
}

} // namespace rora
