#pragma once

#include "theory_report.h"

#include "common/markup.h"

namespace rora::cli {

/// What was measured, in a sentence.
std::string theory_setting(const TheoryReport& report);

std::vector<examples::TitledTable> theory_tables(const TheoryReport& report);

/// "SGD", "AdamW".
const char* step_name(theory::StepRule rule);

/// "output, aligned", "output, independent", "weight".
const char* change_name(theory::Change change);

} // namespace rora::cli
