// "did you mean": the known name that a misspelled one was probably meant to be.
#ifndef CONCLAVE_MOE_DAEMON_NEAREST_NAME_H_
#define CONCLAVE_MOE_DAEMON_NEAREST_NAME_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace conclave {

// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b` (optimal string alignment).
int EditDistance(absl::string_view a, absl::string_view b);

// The nearest of `known`, the first of equals; empty where none is near: more than a third of the letters differ
// (one letter may always). Names longer than 100 letters are near to nothing.
std::string NearestName(absl::string_view name, const std::vector<std::string>& known);

// "; did you mean <prefix><nearest>?", or nothing where no name is near: for the end of an error message.
std::string DidYouMean(absl::string_view name, const std::vector<std::string>& known, absl::string_view prefix = "");

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_NEAREST_NAME_H_
