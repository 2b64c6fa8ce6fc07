#include "families.h"

#include "gemma3.h"
#include "granite.h"
#include "llama.h"
#include "mistral.h"
#include "olmo2.h"
#include "qwen2.h"
#include "qwen3.h"
#include "smollm3.h"

#include <rora/model/decoder.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <map>
#include <mutex>

namespace rora {
namespace {

/// The families by `model_type`: those of the library, and what programs add.
class Families {
 public:
  Families() {
    add(detail::gemma3_text_family());
    add(detail::granite_family());
    add(detail::llama_family());
    add(detail::mistral_family());
    add(detail::olmo2_family());
    add(detail::qwen2_family());
    add(detail::qwen3_family());
    add(detail::smollm3_family());
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

/// `name` with each part that begins and ends at a dot, or at an end, and is `from(pair)` of one of the pairs
/// replaced by its `to(pair)`.
template <class Pairs, class From, class To>
std::string with_parts_replaced(const std::string& name, const Pairs& pairs, From from, To to) {
  std::string result;
  for (size_t place = 0; place < name.size();) {
    const auto is_here = [&](const auto& pair) {
      const std::string& part = from(pair);
      const size_t end = place + part.size();
      return name.compare(place, part.size(), part) == 0 && (end == name.size() || name[end] == '.');
    };
    const auto found = std::find_if(pairs.begin(), pairs.end(), is_here);
    const size_t end =
        found != pairs.end() ? place + from(*found).size() : std::min(name.find('.', place), name.size());
    result += found != pairs.end() ? to(*found) : name.substr(place, end - place);
    result += end < name.size() ? "." : "";
    place = end + 1;
  }
  return result;
}

const std::string& first(const std::pair<std::string, std::string>& pair) {
  return pair.first;
}

const std::string& second(const std::pair<std::string, std::string>& pair) {
  return pair.second;
}

} // namespace

namespace detail {

std::string unsupported_model_type(const std::string& model_type) {
  return "'" + model_type + "' is not supported (" + families().supported() + ")";
}

const ModelFamily* find_family(const std::string& model_type) {
  return families().find(model_type);
}

void refuse_fields(const JsonObject& config, std::initializer_list<const char*> fields) {
  for (const char* field : fields) {
    if (!config.is_off(field)) {
      config.fail(field, "is not supported: models of this family have nothing of the kind");
    }
  }
}

} // namespace detail

DecoderOptions ModelFamily::absent_fields() const {
  return DecoderOptions().bos_token_id(1).eos_token_id({2});
}

CausalLM ModelFamily::make(const DecoderOptions& options) const {
  return DecoderForCausalLM(options);
}

std::string ModelFamily::stored_name(const std::string& parameter) const {
  return with_parts_replaced(parameter, renamed_parts(), first, second);
}

std::string ModelFamily::parameter_name(const std::string& key) const {
  return with_parts_replaced(key, renamed_parts(), second, first);
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
