#include <rora/text/chat_template.h>

#include "checkpoint/quote.h"
#include "text/json_field.h"
#include "text/utf8.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include <nlohmann/json.hpp>

#include <algorithm>

namespace rora {

namespace {

using detail::JsonField;
using Templates = std::map<std::string, ChatTemplate>;

bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::filesystem::path config_path(const std::filesystem::path& folder) {
  return folder / "tokenizer_config.json";
}

ChatTemplate read_template_file(const std::filesystem::path& file, const std::map<std::string, std::string>& tokens) {
  return ChatTemplate(read_file(file), file, tokens);
}

/// All templates of a folder by their names; "default" is the one for every chat.
Templates read_templates(const std::filesystem::path& folder, const Tokenizer* tokenizer) {
  const auto tokens = read_special_tokens(folder, tokenizer);
  Templates templates;
  if (const auto file = folder / "chat_template.jinja"; is_there(file)) {
    templates.emplace("default", read_template_file(file, tokens));
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(folder / "additional_chat_templates", ignored)) {
      if (entry.path().extension() == ".jinja") {
        templates.emplace(entry.path().stem().string(), read_template_file(entry.path(), tokens));
      }
    }
    return templates;
  }
  const std::filesystem::path config = config_path(folder);
  if (!is_there(config)) {
    return templates;
  }
  const nlohmann::json document = detail::read_json_object(config);
  const JsonField field = JsonField(config, document)["chat_template"];
  if (field.is_null()) {
    return templates;
  }
  if (field.is_string()) {
    templates.emplace("default", ChatTemplate(field.string(), config, tokens));
    return templates;
  }
  for (const JsonField& each : field.elements()) {
    const std::string name = each["name"].string();
    if (!templates.emplace(name, ChatTemplate(each["template"].string(), config, tokens)).second) {
      each.fail("the name " + detail::quote(name) + " is given twice");
    }
  }
  return templates;
}

std::string names_of(const Templates& templates) {
  std::string names;
  for (const auto& [name, each] : templates) {
    names += (names.empty() ? "" : ", ") + name;
  }
  return names;
}

/// The template of that name, with the one for tools beside the default one.
ChatTemplate take(const Templates& templates, const std::string& name) {
  ChatTemplate found = templates.at(name);
  if (const auto with_tools = templates.find("tool_use"); name == "default" && with_tools != templates.end()) {
    found = found.with_tool_template(with_tools->second);
  }
  return found;
}

} // namespace

std::map<std::string, std::string> read_special_tokens(
    const std::filesystem::path& folder, const Tokenizer* tokenizer) {
  std::map<std::string, std::string> tokens;
  bool has_file = false;
  for (const char* const name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::filesystem::path path = folder / name;
    if (!is_there(path)) {
      continue;
    }
    has_file = true;
    const nlohmann::json document = detail::read_json_object(path);
    const JsonField root(path, document);
    for (const auto& [key, value] : document.items()) {
      const bool is_token =
          key.ends_with("_token") && !key.starts_with("add_") && (value.is_string() || value.is_object());
      if (is_token && !tokens.contains(key)) {
        tokens[key] = detail::to_valid_utf8(value.is_string() ? root[key].string() : root[key]["content"].string());
      }
    }
  }
  return has_file || tokenizer == nullptr ? tokens : special_tokens_of(*tokenizer);
}

std::map<std::string, std::string> special_tokens_of(const Tokenizer& tokenizer) {
  std::map<std::string, std::string> tokens;
  const auto add = [&](const char* name, std::optional<int64_t> id) {
    if (id) {
      tokens[name] = tokenizer.decode({*id});
    }
  };
  add("bos_token", tokenizer.bos_id);
  add("eos_token", tokenizer.eos_id);
  add("pad_token", tokenizer.pad_id);
  return tokens;
}

std::optional<ChatTemplate> load_chat_template(const std::filesystem::path& folder, const Tokenizer* tokenizer) {
  const Templates templates = read_templates(folder, tokenizer);
  if (templates.empty()) {
    return std::nullopt;
  }
  if (!templates.contains("default")) {
    throw FormatError(
        config_path(folder),
        "chat_template: several templates and none of them is named 'default' (found " + names_of(templates) + ")");
  }
  return take(templates, "default");
}

ChatTemplate load_chat_template(
    const std::string& name, const std::filesystem::path& folder, const Tokenizer* tokenizer) {
  const std::vector<std::string>& known = ChatTemplate::names();
  if (std::find(known.begin(), known.end(), name) != known.end()) {
    return ChatTemplate::named(name, read_special_tokens(folder, tokenizer));
  }
  const Templates templates = read_templates(folder, tokenizer);
  if (templates.contains(name)) {
    return take(templates, name);
  }
  if (!is_there(name)) {
    throw FileError(
        name,
        "no file, and no chat template of that name: the library has llama2, llama3 and chatml" +
            (templates.empty() ? "" : ", the model's folder " + names_of(templates)));
  }
  return read_template_file(name, read_special_tokens(folder, tokenizer));
}

} // namespace rora
