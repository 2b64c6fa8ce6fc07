#include "shared_statistics.h"

#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>

#include <cstdlib>
#include <iostream>
#include <system_error>

namespace rora::cli {
namespace {

constexpr const char* kSeconds = "capture-seconds";
constexpr const char* kNote = "capture-note";

} // namespace

std::optional<SharedStatistics::Captured> SharedStatistics::find(std::map<std::string, std::string> made_from) const {
  try {
    const SafetensorsFile file(file_);
    for (const char* key : {kSeconds, kNote}) { // these need not match
      const auto found = file.metadata().find(key);
      made_from[key] = found == file.metadata().end() ? "" : found->second;
    }
    const double seconds = std::strtod(made_from[kSeconds].c_str(), nullptr);
    const std::string note = made_from[kNote];
    return Captured{load_statistics(file_, made_from), seconds, note};
  } catch (const FileError&) { // captured anew it is right in any case
  } catch (const FormatError&) {
  }
  return std::nullopt;
}

void SharedStatistics::keep(const Captured& captured, std::map<std::string, std::string> made_from) const {
  made_from[kSeconds] = std::to_string(captured.seconds);
  made_from[kNote] = captured.note;
  remove(); // there may be no room for both
  try {
    save_statistics(file_, captured.statistics, made_from);
  } catch (const FileError& problem) {
    std::cerr << problem.what() << ": the next run captures again what its adapter begins from\n";
  }
}

void SharedStatistics::remove() const {
  std::error_code error;
  std::filesystem::remove(file_, error);
}

} // namespace rora::cli
