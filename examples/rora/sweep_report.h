#pragma once

#include "sweep_results.h"

#include <filesystem>
#include <string>

namespace rora::cli {

/// The tables for a terminal.
std::string sweep_text(const SweepReport& report);

/// Writes the files of a report into a folder: sweep.html, sweep.json, sweep.csv (a line a run), curves.csv (a line a
/// step) and times.csv. Where a sweep was killed and went on, only times.csv and the last section of sweep.html are
/// others than without. Throws `FileError`.
void write_report(const SweepReport& report, const std::filesystem::path& folder);

} // namespace rora::cli
