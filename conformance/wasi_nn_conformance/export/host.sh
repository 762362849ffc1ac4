# How your host runs a guest: host ENCODING DIALECT MODULE ARGUMENT...
#
# Standard input is the guest's. The guest must see graphs/ENCODING as /graphs. Each folder in
# named/ENCODING is a model under the folder's name: these are the options of wasmtime for it.
host() {
    encoding=$1 dialect=$2
    shift 2
    for model in named/"$encoding"/*; do
        set -- -S "nn-graph=$encoding::$model" "$@"
    done
    wasi-nn run --dialect "$dialect" --dir "graphs/$encoding::/graphs" "$@"
}
