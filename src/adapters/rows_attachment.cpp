#include "rows_attachment.h"

#include "../checkpoint/quote.h"
#include "module_matching.h"

#include <rora/model/causal_lm.h>
#include <rora/model/embedding.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <tuple>

namespace rora::detail {
namespace {

constexpr const char* kHead = "lm_head";

/// The modules over the vocabulary: the embedding, and the head, which is the embedding once more where it is tied.
struct Vocabulary {
  NamedProjection embedding;
  NamedProjection head;
  CausalLMImpl* model = nullptr; ///< that they are of; null where there is none
  bool tied = false;

  explicit Vocabulary(const torch::nn::Module& model) {
    this->model = const_cast<torch::nn::Module&>(model).as<CausalLMImpl>();
    std::string prefix;
    for (const auto& item : model.named_modules("", /*include_self=*/false)) {
      if (auto* inner = item.value()->as<CausalLMImpl>(); inner != nullptr && this->model == nullptr) {
        this->model = inner;
        prefix = item.key() + ".";
      }
      auto projection = std::dynamic_pointer_cast<ProjectionImpl>(item.value());
      if (projection != nullptr && projection->as<EmbeddingImpl>() != nullptr) {
        embedding = {item.key(), projection};
      } else if (projection != nullptr && is_name_or_suffix(item.key(), kHead)) {
        head = {item.key(), projection};
      }
    }
    if (this->model != nullptr && this->model->options.tie_word_embeddings() && !head.second && embedding.second) {
      head = {prefix + kHead, embedding.second};
      tied = true;
    }
  }

  /// Whether the head was tied until an adapter untied it.
  bool untied() const {
    return model != nullptr && model->head_was_tied;
  }

  /// The one that `named` is the end of the name of, as PEFT matches it.
  const NamedProjection& find(const std::string& named, const char* field) const {
    for (const NamedProjection* each : {&embedding, &head}) {
      if (each->second != nullptr && !named.empty() && each->first.ends_with(named)) {
        return *each;
      }
    }
    C10_THROW_ERROR(
        ValueError,
        std::string(field) + ": " + quote(named) + " is not a module whose rows can be trained: " +
            (embedding.second == nullptr && head.second == nullptr
                 ? "the model has none"
                 : "only the embedding (embed_tokens) and the head (lm_head) are"));
  }
};

using Requests = std::vector<RowsAttachment>;

RowsAttachment* request_of(Requests& requests, const std::string& module) {
  const auto found =
      std::find_if(requests.begin(), requests.end(), [&](const RowsAttachment& each) { return each.module == module; });
  return found == requests.end() ? nullptr : &*found;
}

Requests read_requests(const Vocabulary& vocabulary, const AdapterOptions& options) {
  Requests requests;
  for (const std::string& named : options.modules_to_save()) {
    const auto& [module, projection] = vocabulary.find(named, "modules_to_save");
    if (request_of(requests, module) == nullptr) {
      requests.push_back({module, projection, std::nullopt});
    }
  }
  for (const auto& [named, tokens] : options.trainable_token_indices()) {
    const auto& [module, projection] = vocabulary.find(named, "trainable_token_indices");
    TORCH_CHECK_VALUE(
        request_of(requests, module) == nullptr, module, " is named twice, by modules_to_save or ",
        "trainable_token_indices: its rows are trained all or some");
    requests.push_back({module, projection, tokens});
  }
  return requests;
}

/// Whether one set of rows serves embedding and head, by PEFT's rules: those of tokens unless each has its own, all
/// rows only where `ensure_weight_tying` says so.
bool stays_tied(const RowsAttachment* of_embedding, const RowsAttachment* of_head, bool ensure) {
  const auto whole = [](const RowsAttachment* each) { return each != nullptr && !each->tokens; };
  if (whole(of_embedding) || whole(of_head)) {
    TORCH_CHECK_VALUE(
        (of_embedding == nullptr || whole(of_embedding)) && (of_head == nullptr || whole(of_head)),
        "the head is tied to the embedding: all rows of one and some of the other cannot be trained");
    return ensure;
  }
  const bool alike = of_embedding != nullptr && (of_head == nullptr || of_head->tokens == of_embedding->tokens);
  TORCH_CHECK_VALUE(
      alike || of_embedding == nullptr || !ensure,
      "ensure_weight_tying: trainable_token_indices has other tokens for the head than for the embedding");
  return alike;
}

/// Makes of what is asked for in a model with a tied head either rows that the head follows or an untied head's.
void resolve_tying(Requests& requests, const Vocabulary& vocabulary, bool ensure) {
  RowsAttachment* of_embedding = request_of(requests, vocabulary.embedding.first);
  RowsAttachment* of_head = request_of(requests, vocabulary.head.first);
  if (stays_tied(of_embedding, of_head, ensure)) {
    TORCH_CHECK_VALUE(
        !vocabulary.untied(),
        "the head is no longer tied to the embedding, as another adapter has untied it: these rows ", "are of both");
    RowsAttachment one = of_embedding != nullptr ? *of_embedding : *of_head;
    one.module = vocabulary.embedding.first;
    one.tied_head = vocabulary.head.first;
    requests = {one};
    return;
  }
  for (const auto& [name, adapter] : vocabulary.embedding.second->adapters()) {
    TORCH_CHECK_VALUE(
        !vocabulary.tied || adapter->as<TrainedRows>() == nullptr, "the rows of the adapter '", name,
        "' are those of a head that is tied to the embedding, and these would untie it: detach '", name, "' before");
  }
  for (RowsAttachment& each : requests) {
    each.unties_head = true;
  }
}

void check_tokens(const RowsAttachment& rows) {
  if (rows.tokens) {
    try {
      TrainedRows::validate(*rows.tokens, rows.projection->out_features());
    } catch (const c10::ValueError& error) {
      TORCH_CHECK_VALUE(false, "trainable_token_indices of ", rows.module, ": ", error.what_without_backtrace());
    }
  }
}

} // namespace

std::vector<std::string> RowsAttachment::keys() const {
  if (tokens) {
    return {kBasePrefix + module + ".token_adapter.trainable_tokens_delta"};
  }
  std::vector<std::string> keys{kBasePrefix + module + ".weight"};
  if (tied_head) {
    keys.push_back(kBasePrefix + *tied_head + ".weight");
  }
  return keys;
}

std::vector<int64_t> RowsAttachment::shape() const {
  return {tokens ? static_cast<int64_t>(tokens->size()) : projection->out_features(), projection->in_features()};
}

std::vector<RowsAttachment> plan_rows(const torch::nn::Module& model, const AdapterOptions& options) {
  if (options.modules_to_save().empty() && options.trainable_token_indices().empty()) {
    return {};
  }
  const Vocabulary vocabulary(model);
  Requests requests = read_requests(vocabulary, options);
  if (vocabulary.tied || vocabulary.untied()) {
    resolve_tying(requests, vocabulary, options.ensure_weight_tying());
  }
  for (const RowsAttachment& each : requests) {
    check_tokens(each);
  }
  return requests;
}

void make_rows(std::vector<RowsAttachment>& plan) {
  for (RowsAttachment& each : plan) {
    each.adapter = std::make_shared<TrainedRows>(*each.projection, each.tokens);
  }
}

void attach_rows(torch::nn::Module& model, const std::vector<RowsAttachment>& plan, const std::string& name) {
  if (std::any_of(plan.begin(), plan.end(), [](const RowsAttachment& each) { return each.unties_head; })) {
    Vocabulary(model).model->untie_head();
  }
  const Vocabulary vocabulary(model);
  for (const RowsAttachment& each : plan) {
    each.adapter->train(model.is_training());
    const bool of_head = each.module == vocabulary.head.first;
    (of_head ? vocabulary.head : vocabulary.embedding).second->attach(name, each.adapter);
  }
}

std::vector<RowsAttachment> attached_rows(const torch::nn::Module& model, const std::string& name) {
  const Vocabulary vocabulary(model);
  std::vector<RowsAttachment> attached;
  for (const NamedProjection& each : {vocabulary.embedding, vocabulary.head}) {
    const bool embedding_again = vocabulary.tied && each.first == vocabulary.head.first;
    if (each.second == nullptr || embedding_again) {
      continue;
    }
    if (const auto rows = std::dynamic_pointer_cast<TrainedRows>(each.second->adapter(name))) {
      attached.push_back({each.first, each.second, rows->tokens(), /*unties_head=*/false, rows});
      attached.back().tied_head = vocabulary.tied ? std::optional(vocabulary.head.first) : std::nullopt;
    }
  }
  return attached;
}

void put_rows_options(const std::vector<RowsAttachment>& attached, AdapterOptions& options) {
  std::vector<std::string> whole;
  TokenIndices tokens;
  for (const RowsAttachment& each : attached) {
    if (each.tokens) {
      tokens.emplace_back(last_part(each.module), *each.tokens);
    } else {
      whole.push_back(last_part(each.module));
      options.ensure_weight_tying(each.tied_head.has_value());
    }
  }
  options.modules_to_save(whole).trainable_token_indices(tokens);
}

bool same_rows(const std::vector<RowsAttachment>& a, const std::vector<RowsAttachment>& b) {
  const auto sorted = [](const std::vector<RowsAttachment>& rows) {
    std::vector<std::tuple<std::string, std::optional<std::vector<int64_t>>>> all;
    for (const RowsAttachment& each : rows) {
      all.emplace_back(each.module, each.tokens);
    }
    std::sort(all.begin(), all.end());
    return all;
  };
  return sorted(a) == sorted(b);
}

} // namespace rora::detail
