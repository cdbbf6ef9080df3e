// The walk of one op, in TensorRT's order. Each step adds its lines to the report.
#pragma once

#include "library.h"
#include "report.h"

namespace conformance {

/// Creator, fields and their refusals, interfaces, copies.
void check_creation(Library &library, const Contract &contract, Report &report);
/// Types, shapes, formats, configuration, workspace: all that is asked before anything runs.
void check_shapes(Library &library, const Contract &contract, Report &report);
/// What is computed, beside the references.
void check_results(Library &library, const Contract &contract, Report &report);

}  // namespace conformance
