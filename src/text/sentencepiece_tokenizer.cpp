#include "text/sentencepiece_tokenizer.h"

#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "text/added_tokens.h"
#include "text/json_field.h"
#include "text/limits.h"
#include "text/sentencepiece_model.h"
#include "text/utf8.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include <sentencepiece_processor.h>
#include <nlohmann/json.hpp>

#include <c10/util/Exception.h>

#include <algorithm>
#include <charconv>
#include <map>

namespace rora::detail {

namespace {

// A message that follows another is merged into it: normalizer_spec { add_dummy_prefix: false }.
constexpr std::string_view kNoPrefix{"\x1A\x02\x18\x00", 4};

using Processor = sentencepiece::SentencePieceProcessor;

std::unique_ptr<Processor> load_processor(const std::filesystem::path& path, const std::string& model) {
  auto processor = std::make_unique<Processor>();
  bool loaded = false;
  try {
    loaded = processor->LoadFromSerializedProto(model).ok() && processor->GetPieceSize() > 0;
  } catch (const std::exception&) { // what its trie throws on pieces that make none says nothing to a reader
  }
  if (!loaded) {
    throw FormatError(path, "not a sentencepiece model");
  }
  return processor;
}

std::optional<int64_t> piece_id(const Processor& processor, std::string_view piece) {
  const int id = processor.PieceToId(piece);
  return processor.IdToPiece(id) == piece ? std::optional<int64_t>(id) : std::nullopt;
}

/// What tokenizer_config.json asks of the tokenizer.
struct Settings {
  bool add_bos = true;
  bool add_eos = false;
  bool add_prefix_space = true;
  bool legacy = true;
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(
      std::filesystem::path path, std::unique_ptr<Processor> processor, std::unique_ptr<Processor> continuation,
      Settings settings, const std::map<std::string, AddedToken>& added)
      : path_(std::move(path)),
        processor_(std::move(processor)),
        continuation_(std::move(continuation)),
        settings_(settings) {
    bos_id = id_or_none(processor_->bos_id());
    eos_id = id_or_none(processor_->eos_id());
    pad_id = id_or_none(processor_->pad_id());
    for (const auto& [content, token] : added) {
      finder_.add(token, content);
      added_ids_[content] = token.id;
      added_tokens_[token.id] = token;
    }
  }

  std::vector<int64_t> encode(std::string_view text, bool add_special_tokens) const override {
    check_text(text);
    const std::string valid = to_valid_utf8(text);
    std::vector<int64_t> ids;
    if (add_special_tokens && settings_.add_bos && bos_id) {
      ids.push_back(*bos_id);
    }
    for (const AddedTokenFinder::Part& part : finder_.find(valid)) {
      if (part.id) {
        ids.push_back(*part.id);
        continue;
      }
      const bool has_prefix = settings_.add_prefix_space && (settings_.legacy || part.begin == 0);
      const Processor& processor = has_prefix ? *processor_ : *continuation_;
      std::vector<int> pieces;
      check(processor.Encode(std::string_view(valid).substr(part.begin, part.end - part.begin), &pieces));
      ids.insert(ids.end(), pieces.begin(), pieces.end());
    }
    if (add_special_tokens && settings_.add_eos && eos_id) {
      ids.push_back(*eos_id);
    }
    return ids;
  }

  std::string decode(c10::ArrayRef<int64_t> ids, bool skip_special_tokens) const override {
    std::string text;
    std::vector<int> run; // of the model's own pieces
    const auto flush = [&] {
      const bool has_prefix = settings_.add_prefix_space && text.empty();
      std::string decoded;
      check((has_prefix ? *processor_ : *continuation_).Decode(run, &decoded));
      text += decoded;
      run.clear();
    };
    for (const int64_t id : ids) {
      const auto added = added_tokens_.find(id);
      if (added != added_tokens_.end()) {
        if (!(skip_special_tokens && added->second.special)) {
          flush();
          text += added->second.content;
        }
      } else if (id >= 0 && id < processor_->GetPieceSize()) {
        run.push_back(static_cast<int>(id));
      } else {
        C10_THROW_ERROR(IndexError, "the token id " + std::to_string(id) + " is not in the vocabulary");
      }
    }
    flush();
    return text;
  }

  int64_t vocab_size() const override {
    const int64_t pieces = processor_->GetPieceSize();
    return added_tokens_.empty() ? pieces : std::max(pieces, added_tokens_.rbegin()->first + 1);
  }

  std::optional<int64_t> token_id(std::string_view token) const override {
    const auto added = added_ids_.find(token);
    return added == added_ids_.end() ? piece_id(*processor_, token) : std::optional<int64_t>(added->second);
  }

 private:
  void check(const sentencepiece::util::Status& status) const {
    if (!status.ok()) {
      throw FormatError(path_, "sentencepiece fails on a text: " + status.ToString());
    }
  }

  static std::optional<int64_t> id_or_none(int id) {
    return id < 0 ? std::nullopt : std::optional<int64_t>(id);
  }

  std::filesystem::path path_;
  std::unique_ptr<Processor> processor_; // puts a space before the text
  std::unique_ptr<Processor> continuation_; // the same model, which does not
  Settings settings_;
  AddedTokenFinder finder_;
  std::map<std::string, int64_t, std::less<>> added_ids_;
  std::map<int64_t, AddedToken> added_tokens_;
};

/// The tokens that the model itself never finds in a text.
std::map<std::string, AddedToken> control_tokens(const Processor& processor) {
  std::map<std::string, AddedToken> tokens;
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    if (processor.IsControl(id) || processor.IsUnknown(id)) {
      const std::string& piece = processor.IdToPiece(id);
      tokens[piece] = AddedToken{.id = id, .content = piece, .special = true};
    }
  }
  return tokens;
}

/// As sentencepiece has them: 31 bits.
bool is_id(int64_t id) {
  return id >= 0 && id <= INT32_MAX;
}

void read_added_tokens_json(const std::filesystem::path& path, std::map<std::string, AddedToken>& tokens) {
  const nlohmann::json document = read_json_object(path);
  const JsonField root(path, document);
  for (const auto& member : document.items()) {
    const int64_t id = root[member.key()].integer();
    if (member.key().size() > kMaxAddedTokenBytes) {
      root[member.key()].fail("a token of more than 1024 bytes is not supported");
    }
    if (!is_id(id) || member.key().empty()) {
      root[member.key()].fail("expected a token and its id, found " + shown(member.value()));
    }
    tokens[member.key()] = AddedToken{.id = id, .content = member.key(), .special = false};
  }
}

void read_added_tokens_decoder(const JsonField& field, std::map<std::string, AddedToken>& tokens) {
  for (const auto& member : field.object().items()) {
    const JsonField element = field[member.key()];
    AddedToken token = added_token_from_json(element);
    const char* const end = member.key().data() + member.key().size();
    const auto [parsed, error] = std::from_chars(member.key().data(), end, token.id);
    if (error != std::errc() || parsed != end || !is_id(token.id)) {
      element.fail("expected an id for its key");
    }
    tokens[token.content] = token;
  }
}

Settings read_config(const std::filesystem::path& path, std::map<std::string, AddedToken>& tokens) {
  const nlohmann::json document = read_json_object(path);
  const JsonField root(path, document);
  Settings settings;
  settings.add_bos = root["add_bos_token"].boolean_or(settings.add_bos);
  settings.add_eos = root["add_eos_token"].boolean_or(settings.add_eos);
  settings.add_prefix_space = root["add_prefix_space"].boolean_or(settings.add_prefix_space);
  settings.legacy = root["legacy"].boolean_or(settings.legacy);
  const JsonField keywords = root["sp_model_kwargs"];
  if (!keywords.is_null() && !keywords.object().empty()) {
    keywords.fail("expected an empty object: its options are not supported");
  }
  if (!root["added_tokens_decoder"].is_null()) {
    read_added_tokens_decoder(root["added_tokens_decoder"], tokens);
  }
  return settings;
}

void require_distinct_ids(const std::filesystem::path& path, const std::map<std::string, AddedToken>& tokens) {
  std::map<int64_t, std::string> contents;
  for (const auto& [content, token] : tokens) {
    const auto [other, is_new] = contents.emplace(token.id, content);
    if (!is_new) {
      throw FormatError(
          path,
          "the added tokens " + quote(other->second) + " and " + quote(content) + " have the same id " +
              std::to_string(token.id));
    }
  }
}

} // namespace

std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer.model";
  const std::string model = read_file(path);
  check_sentencepiece_model(path, model);
  std::unique_ptr<Processor> processor = load_processor(path, model);
  std::unique_ptr<Processor> continuation = load_processor(path, model + std::string(kNoPrefix));
  std::map<std::string, AddedToken> tokens = control_tokens(*processor);
  if (const auto added = folder / "added_tokens.json"; std::filesystem::exists(added)) {
    read_added_tokens_json(added, tokens);
  }
  Settings settings;
  if (const auto config = folder / "tokenizer_config.json"; std::filesystem::exists(config)) {
    settings = read_config(config, tokens);
  }
  require_distinct_ids(folder, tokens);
  return std::make_unique<SentencePieceTokenizer>(
      path, std::move(processor), std::move(continuation), settings, tokens);
}

} // namespace rora::detail
