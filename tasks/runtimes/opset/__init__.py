"""Say a graph in an older opset: one table of what each later opset changed, and a rewrite or a refusal for each."""
