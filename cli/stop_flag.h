// Ctrl-C and SIGTERM as a flag, for commands that make files and clean up after themselves.
#ifndef CONCLAVE_CLI_STOP_FLAG_H_
#define CONCLAVE_CLI_STOP_FLAG_H_

namespace conclave {

// From now on SIGINT and SIGTERM end no process, but set the flag; and a file beyond a limit is an error, as a full
// disk is.
void CatchStopSignals();
bool StopWanted();

}  // namespace conclave

#endif  // CONCLAVE_CLI_STOP_FLAG_H_
