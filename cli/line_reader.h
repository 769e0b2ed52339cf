// Lines that a person types, with editing and history on a terminal, or lines of a pipe.
#ifndef CONCLAVE_CLI_LINE_READER_H_
#define CONCLAVE_CLI_LINE_READER_H_

#include <istream>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// What came of waiting for a line.
struct Line {
  enum class Kind { kText, kInterrupted, kEnd };
  Kind kind = Kind::kEnd;
  std::string text;  // without the line break
};

// Used by one thread.
class LineReader {
 public:
  virtual ~LineReader() = default;
  // Waits for a line. kInterrupted: Ctrl-C, and what was typed is dropped. kEnd: Ctrl-D, or the end of the pipe.
  virtual Line Read(const std::string& prompt) = 0;
  // Puts `line` into the history, where there is one.
  virtual void Remember(const std::string& line) = 0;
};

// Edits with the keys of Emacs or vi, as the user's ~/.editrc says (libedit). What is pasted into a terminal that tells
// pasting from typing (bracketed paste: xterm and nearly all since) is text, its line breaks too, until Enter. The
// history is read from `history_file` and written there at the end; empty: it ends with the reader. One at a time: it
// sets standard input's terminal.
// INVALID_ARGUMENT: the file cannot be written.
absl::StatusOr<std::unique_ptr<LineReader>> NewTerminalLineReader(const std::string& history_file);

// Lines of `input`, which must outlive it. Prompts are not shown and nothing is remembered.
std::unique_ptr<LineReader> NewStreamLineReader(std::istream* input);

}  // namespace conclave

#endif  // CONCLAVE_CLI_LINE_READER_H_
