// What star-run prints: the document of star-edge run --json (star_edge/cli/run.py), and tables for people.
#pragma once

#include <nlohmann/json.hpp>
#include <ostream>
#include <span>
#include <string>

#include "recognizer.h"

namespace star::tools {

/// Keeps the order of its fields, as a written document has them.
using OrderedJson = nlohmann::ordered_json;

/// A document as text, invalid UTF-8 replaced; indent -1 for one line.
std::string dump(const OrderedJson &document, int indent);

/// A document without clips, self-test or figures.
OrderedJson report_of(const BundleFiles &bundle, const Recognizer &recognizer);

/// What each clip shows, with its so many most probable classes: the document's clips.
OrderedJson results_of(const Recognizer &recognizer, std::span<const Recording> recordings, std::span<const float> logits,
                       int64_t top);

/// Figures of repeated runs.
OrderedJson figures_of(const Bench &bench);

/// Shares of stages, by name.
OrderedJson shares_of(std::span<const StageShare> stages);

/// Table of the document's clips.
void print_clips(std::ostream &out, const OrderedJson &clips, int64_t top);

/// Table of figures.
void print_figures(std::ostream &out, const OrderedJson &figures);

/// Table of shares.
void print_shares(std::ostream &out, const OrderedJson &shares);

/// Text for a terminal: control characters of hostile names and lines become question marks.
std::string printable(std::string text);

}  // namespace star::tools
