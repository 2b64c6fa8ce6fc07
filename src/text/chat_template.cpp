#include <rora/text/chat_template.h>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "text/jinja/template.h"
#include "text/utf8.h"

#include <rora/error.h>

#include <c10/util/Exception.h>

#include <nlohmann/json.hpp>

namespace rora {

namespace {

using detail::jinja::Dictionary;
using detail::jinja::Failure;
using detail::jinja::None;
using detail::jinja::Value;
using nlohmann::ordered_json;

constexpr const char* kLlama2 =
    R"({%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %})"
    R"({%- else %}{% set turns = messages %}{% endif %})"
    R"({%- if not turns %}{{ raise_exception('the llama2 chat template puts the system message into the user\'s, and )"
    R"(there is none') }}{% endif %})"
    R"({%- for message in turns %})"
    R"({%- if message.role != ('user' if loop.index0 % 2 == 0 else 'assistant') %}{{ raise_exception('the llama2 chat )"
    R"(template takes at most one system message, the first, then user and assistant in turns, found ' ~ message.role))"
    R"( }}{% endif %})"
    R"({%- if message.role == 'assistant' %}{{ ' ' + message.content.strip() + ' ' + eos_token }}{% else %})"
    R"({%- set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message.content )"
    R"(if loop.first and system is defined else message.content %})"
    R"({{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% endif %}{% endfor %})"
    R"({%- if add_generation_prompt and turns[-1].role != 'user' %}{{ raise_exception('the llama2 chat template lets )"
    R"(the assistant speak after the user only') }}{% endif %})";

constexpr const char* kLlama3 = R"({{- bos_token }}{% for message in messages %})"
                                R"({{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }})"
                                R"({{- message.content.strip() + '<|eot_id|>' }})"
                                R"({%- endfor %}{% if add_generation_prompt %})"
                                R"({{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %})";

constexpr const char* kChatML =
    R"({%- for message in messages %})"
    R"({{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %})"
    R"({%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";

std::string place_of(const Failure& failure) {
  return "line " + std::to_string(failure.place.line) + ", column " + std::to_string(failure.place.column);
}

Value to_value(const ordered_json& json) {
  switch (json.type()) {
    case ordered_json::value_t::null:
      return None{};
    case ordered_json::value_t::boolean:
      return Value(json.get<bool>());
    case ordered_json::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
        throw Failure("an integer beyond 64 bits is not supported: " + json.dump());
      }
      [[fallthrough]];
    case ordered_json::value_t::number_integer:
      return Value(json.get<int64_t>());
    case ordered_json::value_t::number_float:
      return Value(json.get<double>());
    case ordered_json::value_t::string:
      return Value(json.get<std::string>());
    case ordered_json::value_t::array: {
      std::vector<Value> items;
      for (const ordered_json& item : json) {
        items.push_back(to_value(item));
      }
      return Value::list(std::move(items));
    }
    default: {
      Dictionary dictionary;
      for (const auto& [key, item] : json.items()) {
        dictionary.set(Value(key), to_value(item));
      }
      return Value(std::move(dictionary));
    }
  }
}

ordered_json parse(const std::string& what, const std::string& text, bool is_list) {
  const auto refuse = [&](const std::string& reason) { C10_THROW_ERROR(ValueError, what + ": " + reason); };
  ordered_json json;
  try {
    json = detail::parse_checked_json<ordered_json>(text, refuse);
  } catch (const ordered_json::exception& error) {
    refuse("not valid JSON: " + detail::json_reason(error));
  }
  if (is_list ? !json.is_array() : !json.is_object()) {
    refuse(std::string("expected a JSON ") + (is_list ? "list" : "object") + ", found " + detail::shown(json));
  }
  return json;
}

/// A message as transformers hands it on: keys without a value are left out.
Value to_value(const ChatMessage& message, size_t index) {
  Dictionary dictionary;
  dictionary.set("role", Value(detail::to_valid_utf8(message.role)));
  ordered_json fields;
  if (!message.fields.empty()) {
    fields = parse("message " + std::to_string(index), message.fields, /*is_list=*/false);
  }
  if (!fields.contains("content")) {
    dictionary.set("content", Value(detail::to_valid_utf8(message.content)));
  }
  for (const auto& [key, value] : fields.items()) {
    if (!value.is_null()) {
      dictionary.set(Value(key), to_value(value));
    }
  }
  // An assistant's thoughts go by three names; templates know one or another.
  for (const char* const name : {"reasoning", "reasoning_content", "thinking"}) {
    if (const Value* const found = dictionary.find(std::string(name));
        found != nullptr && message.role == "assistant") {
      const Value thoughts = *found;
      for (const char* const alias : {"thinking", "reasoning_content"}) {
        if (dictionary.find(std::string(alias)) == nullptr) {
          dictionary.set(alias, thoughts);
        }
      }
      break;
    }
  }
  return Value(std::move(dictionary));
}

} // namespace

struct ChatTemplate::Impl {
  std::string source;
  std::string origin;
  std::map<std::string, std::string> special_tokens;
  detail::jinja::Template parsed;
};

ChatTemplate::ChatTemplate(
    std::string source, const std::filesystem::path& file, std::map<std::string, std::string> special_tokens) {
  constexpr size_t kMaxBytes = size_t{1} << 20;
  if (source.size() > kMaxBytes) {
    throw FormatError(file, "a chat template of " + std::to_string(source.size()) + " bytes, over 1 MiB");
  }
  const std::string text = detail::to_valid_utf8(source);
  try {
    detail::jinja::Template parsed(text);
    impl_ = std::make_shared<const Impl>(
        Impl{std::move(source), file.string(), std::move(special_tokens), std::move(parsed)});
  } catch (const Failure& failure) {
    throw FormatError(file, "the chat template, " + place_of(failure) + ": " + failure.what());
  }
}

ChatTemplate ChatTemplate::named(std::string_view name, std::map<std::string, std::string> special_tokens) {
  const char* const source = name == "llama2" ? kLlama2 : (name == "llama3" ? kLlama3 : kChatML);
  if (source == kChatML && name != "chatml") {
    C10_THROW_ERROR(ValueError, "the chat template " + detail::quote(name) + " is not one of llama2, llama3, chatml");
  }
  return ChatTemplate(source, std::string(name), std::move(special_tokens));
}

const std::vector<std::string>& ChatTemplate::names() {
  static const std::vector<std::string> names = {"llama2", "llama3", "chatml"};
  return names;
}

ChatTemplate ChatTemplate::with_tool_template(const ChatTemplate& with_tools) const {
  ChatTemplate both = *this;
  both.with_tools_ = with_tools.impl_;
  return both;
}

ChatTemplate ChatTemplate::at(std::time_t now) const {
  ChatTemplate dated = *this;
  dated.now_ = now;
  return dated;
}

const ChatTemplate::Impl& ChatTemplate::impl(bool with_tools) const {
  return with_tools && with_tools_ != nullptr ? *with_tools_ : *impl_;
}

const std::string& ChatTemplate::source() const {
  return impl_->source;
}

std::optional<std::string> ChatTemplate::joined_source() const {
  if (with_tools_ == nullptr || with_tools_->source == impl_->source) {
    return source();
  }
  if (marks_generation(true) != marks_generation(false)) {
    return std::nullopt;
  }
  // A tag takes the line's end behind it, so that a branch begins as a template does, and blanks before it in its line,
  // which the empty expression keeps. A template's last newline is none of its text.
  const auto branch = [](const std::string& text) {
    return "\n" + text.substr(0, text.size() - (text.ends_with('\n') ? 1 : 0)) + "{{ '' }}";
  };
  return "{% if tools is defined and tools is not none %}" + branch(with_tools_->source) + "{% else %}" +
      branch(impl_->source) + "{% endif %}";
}

const std::string& ChatTemplate::origin() const {
  return impl_->origin;
}

bool ChatTemplate::marks_generation(bool with_tools) const {
  return impl(with_tools).parsed.marks_generation();
}

RenderedChat ChatTemplate::render(const std::vector<ChatMessage>& messages, const RenderOptions& options) const {
  if (messages.empty()) {
    C10_THROW_ERROR(ValueError, "a chat needs at least one message");
  }
  const Impl& used = impl(!options.tools().empty());
  try {
    std::vector<std::pair<std::string, Value>> names;
    for (const auto& [name, text] : used.special_tokens) {
      names.emplace_back(name, Value(text));
    }
    if (!options.variables().empty()) {
      const ordered_json variables = parse("variables", options.variables(), /*is_list=*/false);
      for (const auto& [name, value] : variables.items()) {
        names.emplace_back(name, to_value(value));
      }
    }
    std::vector<Value> values;
    for (size_t i = 0; i < messages.size(); ++i) {
      values.push_back(to_value(messages[i], i));
    }
    names.emplace_back("messages", Value::list(std::move(values)));
    const bool has_tools = !options.tools().empty();
    names.emplace_back("tools", has_tools ? to_value(parse("tools", options.tools(), /*is_list=*/true)) : None{});
    names.emplace_back("documents", None{});
    names.emplace_back("add_generation_prompt", Value(options.add_generation_prompt()));
    auto [text, generated] = used.parsed.render(names, options.now().value_or(now_.value_or(std::time(nullptr))));
    return {std::move(text), std::move(generated)};
  } catch (const Failure& failure) {
    const std::string where = "the chat template " + used.origin;
    if (failure.kind == Failure::Kind::kRaised) {
      C10_THROW_ERROR(ValueError, where + " refuses these messages: " + one_line(failure.what()));
    }
    const std::string place = failure.place.line == 0 ? "" : ", " + place_of(failure);
    C10_THROW_ERROR(ValueError, where + place + ": " + one_line(failure.what()));
  }
}

} // namespace rora
