// a browser script
