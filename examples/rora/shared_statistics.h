#pragma once

#include <rora/adapters/weight_statistics.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace rora::cli {

/// What the start of one adapter has captured, in a file for the starts that read the same: in a sweep those that
/// differ in their learning rate.
class SharedStatistics {
 public:
  struct Captured {
    StatisticsByModule statistics;
    double seconds = 0.0; ///< that capturing took
    std::string note; ///< a line about it, or nothing
  };

  explicit SharedStatistics(std::filesystem::path file) : file_(std::move(file)) {}

  /// What was captured from the same; nothing where the file holds other statistics, is damaged or is not there.
  std::optional<Captured> find(std::map<std::string, std::string> made_from) const;

  /// Keeps it in place of what was kept. Where it cannot be written nothing is kept: the next start captures by itself.
  void keep(const Captured& captured, std::map<std::string, std::string> made_from) const;

  /// Removes the file.
  void remove() const;

 private:
  std::filesystem::path file_;
};

} // namespace rora::cli
