#pragma once

#include "sweep_results.h"

#include <filesystem>
#include <string>

namespace rora::cli {

/// The tables for a terminal.
std::string sweep_text(const SweepReport& report);

/// Writes the files of a report into a folder: sweep.html, sweep.json, sweep.csv (a line a run), curves.csv (a line a
/// step) and times.csv. Of two machines, or of a sweep that was killed and one that was not, only times.csv and the
/// last section of sweep.html differ. Throws `FileError`.
void write_report(const SweepReport& report, const std::filesystem::path& folder);

} // namespace rora::cli
